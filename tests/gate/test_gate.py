"""The gate and its file: equal decisions, the cut, and files that were changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from src.detectors import Detector, Energy, FeatureNorm
from src.gate import Calibration, Gate, Picture
from src.gate.file import save
from src.network import Network
from src.records.configs import CONF
from tests.fakes import Harmful

CLASSES = ["a", "b", "c"]
LAYERS: list[dict[str, Any]] = [
    {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 6, "kernel_size": 3},
    {"_target_": "torch.nn.ReLU"},
    {"_target_": "torch.nn.Conv2d", "in_channels": 6, "out_channels": 8, "kernel_size": 3},
    {"_target_": "torch.nn.ReLU"},
    {"_target_": "torch.nn.AdaptiveAvgPool2d", "output_size": 1},
    {"_target_": "torch.nn.Flatten"},
    {"_target_": "torch.nn.Linear", "in_features": 8, "out_features": 3},
]  # fmt: skip
NET = {
    "_target_": "src.network.Network",
    "net": {"_target_": "torch.nn.Sequential", "_args_": LAYERS},
    "blocks": ["1", "3"],
    "image_shape": [1, 12, 12],
}


def configured() -> dict[str, dict[str, Any]]:
    """Returns the detectors of detectors=all."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["detectors=all"])
    return OmegaConf.to_container(cfg.detectors, resolve=True)  # type: ignore[return-value]


def images(n: int, seed: int) -> Tensor:
    return torch.rand(n, 1, 12, 12, generator=torch.Generator().manual_seed(seed))


def new_network() -> Network:
    torch.manual_seed(0)
    network: Network = instantiate(OmegaConf.create(NET))
    network.norm_ratio = {"1": 1.2, "3": 1.5}
    return network.eval()


def fitted(detector: Detector, network: Network) -> Detector:
    """The detector, fitted on 60 random images."""
    image = images(60, 0)
    with torch.no_grad():
        detector.prepare(network)
        seen = network.observe(image)
        label = torch.arange(60) % 3
        detector.update(seen, label, torch.arange(60))
        detector.fit(network)
    detector.reset()
    return detector


def new_gate(detector: Detector, name: str = "it", *, by_class: bool = False) -> Gate:
    network = new_network()
    fitted(detector, network)
    with torch.no_grad():
        seen = network.observe(images(150, 1))
    prediction = torch.arange(150) % 3 if by_class else None
    calibration = Calibration(detector.score(seen).detach(), prediction, 0.1, CLASSES)
    picture = Picture((1, 12, 12))
    return Gate(network, detector, calibration, classes=CLASSES, picture=picture, name=name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    config = {"_target_": "src.detectors.FeatureNorm", "at": "1"}
    save(new_gate(FeatureNorm(at="1")), tmp_path / "gate.pt", NET, config)
    return tmp_path / "gate.pt"


@pytest.mark.parametrize("name", configured())
def test_every_detector_decides_alike_from_its_file_alone_in_a_batch_and_behind_the_cut(
    name: str, tmp_path: Path
) -> None:
    config = configured()[name]
    if config.get("at") == "each_block":
        config["at"] = "3"
    try:
        gate = new_gate(instantiate(OmegaConf.create(config)), name)
    except ValueError as error:
        if "calibration" not in str(error):  # a detector that needs more than 60 small images
            raise
        pytest.skip(str(error))
    save(gate, tmp_path / "gate.pt", NET, config)
    loaded = Gate.load(tmp_path / "gate.pt")
    assert loaded.digest == gate.digest
    image = images(20, 2)
    verdicts = gate([*image])
    assert loaded([*image]) == verdicts
    for cut, whole in zip(gate([*image], classify=False), verdicts, strict=True):
        assert cut.label is None
        assert cut.score == pytest.approx(whole.score, rel=1e-5, abs=1e-6)
        assert cut.is_ood == whole.is_ood
    for each, whole in zip(image, verdicts, strict=True):
        assert gate(each).score == pytest.approx(whole.score, rel=1e-4, abs=1e-5)


def test_the_network_is_cut_behind_the_block_that_is_read() -> None:
    gate = new_gate(FeatureNorm(at="1"))
    assert gate.cut == "1"
    assert new_gate(FeatureNorm()).cut == "3"
    assert new_gate(Energy()).cut is None
    ran = []
    for module in gate.network.net.children():
        module.register_forward_hook(lambda module, *_: ran.append(type(module).__name__))
    gate(images(1, 0)[0], classify=False)
    assert ran == ["Conv2d", "ReLU"]
    gate(images(1, 0)[0])
    assert ran[2:] == [type(module).__name__ for module in gate.network.net.children()]


def test_a_gate_decides_for_each_class_if_asked_to() -> None:
    gate = new_gate(Energy(), by_class=True)
    assert [*gate.score_threshold] == CLASSES  # type: ignore[misc]
    verdicts = gate([*images(50, 3)])
    for verdict in verdicts:
        threshold = gate.score_threshold[str(verdict.label)]  # type: ignore[index]
        assert verdict.is_ood == (verdict.score < threshold)


def test_a_batch_may_be_a_list_an_array_or_a_tensor_and_may_be_empty() -> None:
    gate = new_gate(Energy())
    image = images(3, 0)
    expected = gate([*image])
    assert gate(image) == expected
    assert gate(image.movedim(1, 3).numpy()) == expected
    assert gate([]) == []
    assert repr(gate).startswith("Gate(\n  detector=it, classes=3, alpha=0.1")


def test_a_detector_of_ones_own_needs_trust(tmp_path: Path) -> None:
    config = {"_target_": "tests.gate.test_gate.Mine"}
    save(new_gate(Mine()), tmp_path / "gate.pt", NET, config)
    with pytest.raises(ValueError, match=r"Mine .*trust"):
        Gate.load(tmp_path / "gate.pt")
    assert Gate.load(tmp_path / "gate.pt", trust=True)(images(1, 0)[0]).score


class Mine(Energy):
    """A detector of a package that is not ours."""


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no facts": lambda c: c.pop("gate"),
    "no network": lambda c: c.pop("network"),
    "no calibration": lambda c: c["calibration"].pop("score"),
    "other format": lambda c: c["gate"].update(format=10**6),
    "odd format": lambda c: c["gate"].update(format="x"),
    "alpha of 2": lambda c: c["gate"].update(alpha=2),
    "alpha too fine": lambda c: c["gate"].update(alpha=1e-9),
    "alpha a text": lambda c: c["gate"].update(alpha="x"),
    "another alpha": lambda c: c["gate"].update(alpha=0.2),
    "fewer classes": lambda c: c["gate"].update(classes=["a"]),
    "other names": lambda c: c["gate"].update(classes=["a", "b", "x"]),
    "classes of numbers": lambda c: c["gate"].update(classes=[1, 2, 3]),
    "other pixels": lambda c: c["gate"].update(shape=[3, 12, 12]),
    "short side": lambda c: c["gate"].update(short_side=14),
    "other blocks": lambda c: c["gate"]["net"].update(blocks=["1"]),
    "no net": lambda c: c["gate"].update(net={}),
    "huge net": lambda c: c["gate"]["net"]["net"]["_args_"][-1].update(in_features=10**9),
    "foreign net": lambda c: c["gate"]["net"].update(_target_="os.system"),
    "foreign detector": lambda c: c["gate"].update(detector={"_target_": "os.system"}),
    "no detector": lambda c: c["gate"].update(detector={"_target_": "torch.nn.ReLU"}),
    "detector elsewhere": lambda c: c["gate"]["detector"].update(at="nope"),
    "a resolver": lambda c: c["gate"]["detector"].update(at="${oc.env:HOME}"),
    "weights moved": lambda c: c["network"]["net.0.weight"].add_(1e-3),
    "weights not finite": lambda c: c["network"]["net.0.weight"].fill_(torch.nan),
    "other weights": lambda c: c["network"].update({"net.0.weight": torch.zeros(2)}),
    "scores moved": lambda c: c["calibration"]["score"].add_(1e-3),
    "scores not finite": lambda c: c["calibration"]["score"].fill_(torch.nan),
    "scores of no shape": lambda c: c["calibration"].update(score=torch.zeros(150, 2).double()),
    "scores of float32": lambda c: c["calibration"].update(score=torch.zeros(150)),
    "no scores": lambda c: c["calibration"].update(
        score=torch.zeros(0).double(), prediction=torch.zeros(0).long()
    ),
    "a class of 10^12": lambda c: c["calibration"]["prediction"].fill_(10**12),
    "a class below 0": lambda c: c["calibration"]["prediction"].fill_(-1),
    "selection is a text": lambda c: c["network"].update(_extra_state="x"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_was_changed_is_refused_in_one_sentence(
    change: Callable[[dict[str, Any]], Any], path: Path
) -> None:
    changed(path, change)
    with pytest.raises(ValueError) as refused:  # noqa: PT011, any sentence of ours
        Gate.load(path)
    assert "expected" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("cut", [0, 1, 100, -100, -1])
def test_a_file_that_is_cut_short_or_has_a_flipped_bit_is_refused(cut: int, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(ValueError, match="make or fetch it again"):
        Gate.load(path)
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(ValueError, match="make or fetch it again"):
        Gate.load(path)


def test_no_code_in_a_file_runs(path: Path, tmp_path: Path) -> None:
    changed(path, lambda content: content.update(network=Harmful(tmp_path / "ran")))
    with pytest.raises(ValueError, match="make or fetch it again"):
        Gate.load(path)
    assert not (tmp_path / "ran").exists()


def test_other_files_are_no_gates(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m src\.deploy"):
        Gate.load(tmp_path / "none.pt")
    torch.save({"config": {}, "state_dict": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"expected a gate of src\.deploy"):
        Gate.load(tmp_path / "checkpoint.pt")


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    config = {"_target_": "src.detectors.FeatureNorm", "at": "1"}

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(new_gate(Energy()), path, NET, config)
    assert path.read_bytes() == before
