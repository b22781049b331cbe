"""From a checkpoint to a gate: what calibrates, what it promises, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from src.data import ImageData
from src.detectors import Energy
from src.gate import Gate
from src.run import load_network
from tests import REPOSITORY, TINY
from tests.conftest import Command, Refused
from tests.fakes import Memory


def test_a_checkpoint_becomes_a_gate_that_decides_as_it_says(
    finished_run: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run, checkpoint = tmp_path / "run", finished_run / "checkpoints/last.ckpt"
    command(
        "src.deploy", f"checkpoint={checkpoint}", "detector=energy", "alpha=0.1", "test=true",
        f"hydra.run.dir={run}",
    )  # fmt: skip
    facts = json.loads((run / "gate.json").read_text())
    gate = Gate.load(run / "gate.pt")
    assert (facts["detector"], facts["alpha"], facts["images"]) == ("energy", 0.1, 100)
    assert facts["score_threshold"] == gate.score_threshold
    assert facts["digest"] == gate.digest
    said = capsys.readouterr().out
    assert "at most 10 % in the mean" in " ".join(said.split())
    # the same, by hand: the last half of the held-out images, a seventh of them per class
    data = digits(calibration_size=100)
    data.setup("fit")
    network = load_network(str(checkpoint))
    with torch.no_grad():
        image = data._part("calibration").image.float() / 255
        known = Energy().score(network.observe(image)).double().sort().values
        test = Energy().score(network.observe(data._images("id").image.float() / 255))
        alone = Energy().score(network.observe(image[:1]))
    assert torch.allclose(gate.calibration.known, known, rtol=1e-6)
    assert gate.score_threshold == pytest.approx(float(known[9]), rel=1e-6)  # rank 10 of 101
    row = facts["rates"]["0.1"]
    assert row["false_alarms"] == pytest.approx(float((test < known[9]).double().mean()))
    assert row["low"] <= row["false_alarms"] <= row["high"]
    assert [*row["found"]] == ["digits_7_to_9", "photographs", "noise"]
    says_the_page(run, image[0], tmp_path)
    verdict = gate(image[0])
    assert verdict.score == pytest.approx(float(alone), rel=1e-5)


def says_the_page(run: Path, image: torch.Tensor, folder: Path) -> None:
    """Runs the code of docs/deploy.md."""
    code = (REPOSITORY / "docs/deploy.md").read_text().partition("```python\n")[2]
    photo = folder / "photo.png"
    Image.fromarray((image[0] * 255).byte().numpy()).save(photo)
    code = code.partition("```")[0].replace("photo.jpg", str(photo))
    names: dict[str, Any] = {}
    exec(code.replace("logs/deploy/TIME", str(run)), names)
    assert names["verdict"] == names["gate"](photo)


def digits(**options: object) -> ImageData:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from src.records.configs import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*TINY])
    data: ImageData = instantiate(cfg.data, **options)
    return data


def test_the_block_is_selected_again_without_the_images_that_calibrate(
    finished_run: Path, tmp_path: Path, command: Command
) -> None:
    run, checkpoint = tmp_path / "run", finished_run / "checkpoints/last.ckpt"
    command(
        "src.deploy", f"checkpoint={checkpoint}", "detector=featurenorm", f"hydra.run.dir={run}"
    )
    gate = Gate.load(run / "gate.pt")
    of_run = load_network(str(checkpoint))
    assert gate.network.norm_ratio != of_run.norm_ratio  # half as many images
    assert gate.cut == gate.network.selected
    assert json.loads((run / "selection.json").read_text())


def test_a_training_ends_in_a_gate_and_keeps_its_calibration_images_for_it(
    tmp_path: Path, command: Command
) -> None:
    run = tmp_path / "run"
    command(
        "src.train", *TINY, "trainer.max_epochs=1", "gate=true", "detector=featurenorm@layer2.0",
        "benchmark=false", f"hydra.run.dir={run}",
    )  # fmt: skip
    gate = Gate.load(run / "gate.pt")
    assert gate.cut == "layer2.0"
    config = OmegaConf.load(run / "config.yaml")
    assert config.data.calibration_size == 100
    # a deployment of this checkpoint uses the same images, and its selection is kept
    command(
        "src.deploy", f"checkpoint={run}/checkpoints/last.ckpt", "detector=featurenorm",
        f"hydra.run.dir={tmp_path}/deployed",
    )  # fmt: skip
    again = Gate.load(tmp_path / "deployed/gate.pt")
    assert again.network.norm_ratio == load_network(f"{run}/checkpoints/last.ckpt").norm_ratio
    assert not (tmp_path / "deployed/selection.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["detector=nope"], r"expected a detector out of .*energy.*, got 'nope'"),
        (["alpha=0"], r"alpha.* within \(0, 1\), got 0"),
        (["alpha=1.5"], r"alpha.* within \(0, 1\), got 1\.5"),
        (["alpha=0.001"], r"alpha of at least 0\.0099.*calibrate on 999 images"),
        (["data.validation_size=1"], r"calibrate on 19 images"),
        (["data.calibration_size=200"], r"calibration_size within 0\.\.199"),
        (["by_class=true", "detector=energy"], r"19 calibration images or more of each predicted"),
        (["detector=featurenorm", "selection=none"], r"expected a selection"),
        (["detector=featurenorm@nope"], r"expected a block of ResNet, got 'nope'"),
    ],
)  # fmt: skip
def test_what_cannot_be_promised_is_refused_in_one_sentence(
    arguments: list[str], says: str, finished_run: Path, refused: Refused
) -> None:
    said = refused(
        "src.deploy", f"checkpoint={finished_run}/checkpoints/last.ckpt", *arguments,
        "hydra.run.dir=run",
    )  # fmt: skip
    assert re.search(says, said), said


def test_a_training_that_could_not_end_in_a_gate_does_not_start(refused: Refused) -> None:
    said = refused("src.train", *TINY, "gate=true", "alpha=0.001", "hydra.run.dir=run")
    assert "calibrate on 999 images" in said


def test_images_that_calibrate_are_in_no_other_part() -> None:
    data = ImageData(
        Memory(60), Memory(9, 1), {"other": Memory(9, 2)}, validation_size=20,
        calibration_size=8, batch_size=4,
    )  # fmt: skip
    data.setup("fit")
    parts = {name: data._part(name).image.flatten(1) for name in ("train", "validation")}
    calibration = data._part("calibration").image.flatten(1)
    assert [len(each) for each in (*parts.values(), calibration)] == [40, 12, 8]
    assert [data.images(name) for name in ("train", "validation", "calibration")] == [40, 12, 8]
    selecting = torch.cat([batch.image for batch in data.selection_dataloader()]).flatten(1)
    assert len(selecting) == 52
    for part in (*parts.values(), selecting):
        assert not any((part == row).all(dim=1).any() for row in calibration)
