"""Networks that were not trained here: their weights, their blocks, their benchmark."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import mobilenet_v3_large

from src.records.history import read_history
from tests import TINY


def test_weights_of_a_run_give_its_selection_and_its_scores(
    finished_run: Path, tmp_path: Path, command: Callable[..., None]
) -> None:
    weights = f"net.weights={finished_run / 'checkpoints/last.ckpt'}"
    command("src.evaluate", *TINY, weights, f"hydra.run.dir={tmp_path / 'run'}")
    first, second = (
        json.loads((run / "metrics.json").read_text()) for run in (finished_run, tmp_path / "run")
    )
    assert second["selected_block"] == first["selected_block"]
    assert second["norm_ratio"] == pytest.approx(first["norm_ratio"], rel=1e-6)
    for name, results in first["detectors"].items():
        for source, metrics in results.items():
            assert second["detectors"][name][source] == pytest.approx(metrics, rel=1e-6)


def test_a_block_is_selected_again_and_no_ood_image_is_read(
    finished_run: Path, tmp_path: Path, command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    trained = json.loads((finished_run / "metrics.json").read_text())["norm_ratio"]
    weights, run = finished_run / "checkpoints/last.ckpt", tmp_path / "run"
    command(
        "src.evaluate", f"checkpoint={weights}", "selection=official", "benchmark=false",
        "data.ood.noise=null", f"hydra.run.dir={run}",
    )  # fmt: skip
    ratio = read_history(run / "norm_ratio.csv").ratio[-1].tolist()
    assert ratio != pytest.approx(list(trained.values()), rel=1e-6)
    said = capsys.readouterr().out
    for block, number in zip(trained, ratio, strict=True):
        assert re.search(rf"{re.escape(block)}( \(selected\))? +{number:.4f} ", said)
    assert said.count("(selected)") == 1
    assert not {"metrics.json", "scores.npz", "benchmark"} & {p.name for p in run.iterdir()}


def test_a_checkpoint_is_benchmarked_though_its_training_was_not(
    finished_run: Path, tmp_path: Path, command: Callable[..., None]
) -> None:
    checkpoint = torch.load(finished_run / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["config"]["benchmark"] = False
    torch.save(checkpoint, tmp_path / "last.ckpt")
    command(
        "src.evaluate", f"checkpoint={tmp_path / 'last.ckpt'}", f"hydra.run.dir={tmp_path}/run"
    )
    assert (tmp_path / "run/metrics.json").exists()


def test_the_blocks_of_a_network_are_listed_and_nothing_is_left(
    tmp_path: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"hydra.run.dir={tmp_path / 'run'}"
    command("src.evaluate", "net=vit_small", "net.blocks=null", "list_blocks=true", run)
    header, *rows = capsys.readouterr().out.strip().splitlines()
    assert header.split() == ["block", "class", "shape", "stride", "layout"]
    assert [row.split()[0] for row in rows] == [
        f"encoder.layers.encoder_layer_{number}" for number in range(6)
    ]
    assert rows[0].split(maxsplit=8)[1:] == [
        *("EncoderBlock", "192", "x", "64", "x", "1", "4"),
        "tokens, 1 class token left out",
    ]
    assert not list(tmp_path.iterdir())


def test_blocks_are_listed_without_the_weights(
    tmp_path: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"hydra.run.dir={tmp_path / 'run'}"
    command("src.evaluate", "net=resnet18", "net.weights=gone.pth", "list_blocks=true", run)
    assert "layer4.1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pretrained_network_is_selected_for_and_benchmarked_from_folders(
    tmp_path: Path, command: Callable[..., None]
) -> None:
    names = [f"imagenet/{part}/{label}" for part in ("train", "val") for label in "abc"]
    for name in (*names, "inaturalist", "sun/sky", "places", "textures"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for row in range(4):
            pixel = np.random.default_rng(row).integers(0, 256, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixel).save(folder / f"{row}.JPEG")
    torch.manual_seed(0)
    torch.save(mobilenet_v3_large(num_classes=3).state_dict(), tmp_path / "weights.pth")
    command(
        *("src.evaluate", "experiment=mobilenet_v3_imagenet", f"data_dir={tmp_path}"),
        *(f"net.weights={tmp_path / 'weights.pth'}", "net.net.num_classes=3", "logger=csv"),
        *("net.image_shape=[3,64,64]", "data.train.short_side=70", "data.train.sample=10"),
        *("data.validation_size=5", "data.eval_batch_size=4", "data.workers=1"),
        "~detectors.norm_profile",  # it has 35 weights
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    counts = {"id": 12, "inaturalist": 4, "sun": 4, "places": 4, "textures": 4}
    assert metrics["counts"] == counts
    assert metrics["network"] == "mobilenet_v3_large"
    assert list(metrics["norm_ratio"]) == [f"features.{block}" for block in range(17)]
    assert metrics["selected_block"] in metrics["norm_ratio"]
