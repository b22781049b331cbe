"""The study of ImageNet networks from packages: images, networks and intervals."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.nn import functional as F

from bench import imagenet, intervals
from bench.squeezenet import SqueezeNet
from src.metrics.ood import ood_metrics
from src.network import Network
from tests import REPOSITORY
from tests.conftest import save_images


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file as that of ndf: kernels (H, W, in, out) and biases."""
    torch.manual_seed(0)
    layers = {}
    for name, value in SqueezeNet().state_dict().items():
        path, kind = name.rsplit(".", 1)
        path = path.replace(".", "/").replace("squeeze", "squeeze1x1")
        if kind == "weight":
            kernel = value[:, :, None, None] if value.dim() == 2 else value
            layers[path] = [kernel.permute(2, 3, 1, 0).numpy()]
        else:
            layers[path].append(value.numpy())
    file = tmp_path / "weights.pkl"
    file.write_bytes(pickle.dumps(layers, protocol=3).replace(b"numpy._core", b"numpy.core"))
    return file


def test_squeezenet_is_the_network_of_the_file(weights: Path) -> None:
    layers = pickle.loads(weights.read_bytes())
    image = torch.rand(2, 3, 227, 227, generator=torch.Generator().manual_seed(1))

    def convolved(value: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        kernel, bias = map(torch.from_numpy, layers[name])
        return F.conv2d(value, kernel.permute(3, 2, 0, 1), bias, **options)

    value = convolved(image.flip(1), "conv1", stride=2, padding=1).relu()
    for number in range(2, 10):
        if number in (2, 4, 6):
            value = F.max_pool2d(value, 3, 2)
        value = convolved(value, f"fire{number}/squeeze1x1").relu()
        small = convolved(value, f"fire{number}/expand1x1").relu()
        value = torch.cat(
            [small, convolved(value, f"fire{number}/expand3x3", padding=1).relu()], dim=1
        )
    assert value.shape[-1] == 13
    expected = convolved(value, "conv10").mean(dim=(2, 3))
    assert torch.allclose(SqueezeNet(weights)(image), expected, atol=1e-5)


def test_squeezenet_ends_in_a_linear_head_and_has_eight_blocks() -> None:
    network = Network(SqueezeNet(), image_shape=(3, 227, 227))
    assert network.head_path == "conv10"
    assert network.head_is_linear
    assert network.blocks == tuple(f"fire{number}" for number in range(2, 10))


def test_a_file_that_names_more_than_arrays_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pkl"
    file.write_bytes(pickle.dumps({"conv1": print}))
    with pytest.raises(pickle.UnpicklingError, match="arrays alone, got one that names builtins"):
        SqueezeNet(file)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """1,000 photos by name alone, and two textures."""
    save_images(tmp_path / "textures/banded", 2)
    (tmp_path / "imagenet_sample").mkdir()
    for number in range(1000):
        (tmp_path / f"imagenet_sample/n{number:08}_name.jpg").touch()
    return tmp_path


def test_no_photo_is_both_fitted_on_and_tested(images: Path) -> None:
    parts = []
    for half in (0, 1):
        imagenet.write_lists(images, images, half)
        parts.append({(images / f"{name}.txt").read_text() for name in ("fit", "test")})
        fit, test = ((images / f"{name}.txt").read_text().split("\n") for name in ("fit", "test"))
        assert len(fit) == len(test) == 501
        assert set(fit) & set(test) == {""}
        assert test[1] == f"imagenet_sample/n{2 + half:08}_name.jpg {2 + half}"
    assert parts[0] == parts[1]


def test_a_photo_that_is_missing_is_told(images: Path) -> None:
    (images / "imagenet_sample/n00000000_name.jpg").unlink()
    with pytest.raises(ValueError, match=r"expected 1000 photos, one of each class, .*got 999"):
        imagenet.write_lists(images, images, 0)


def test_the_settings_fit_the_configuration(images: Path) -> None:
    left_out = imagenet.LABELLED + imagenet.EXTRA_PASSES
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        cfg = compose(
            "evaluate",
            [
                "detectors=all",
                *imagenet.data_settings(images, images, 240),
                *(f"~detectors.{name}" for name in left_out),
            ],
        )
    assert list(cfg.data.ood) == ["textures"]
    assert cfg.data.train.path == f"{images}/fit.txt"
    assert cfg.data.ood.textures.short_side == 272
    assert "norm_profile" in cfg.detectors
    assert not set(left_out) & set(cfg.detectors)


def test_intervals_hold_the_exact_auroc(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    source = np.repeat([0, 1, 2], (40, 30, 50))
    score = np.stack([draws.normal(size=120) - source, np.round(draws.normal(size=120))], axis=1)
    names = np.array(["featurenorm", "coin"])
    np.savez(tmp_path / "scores.npz", score=score, source=source, detectors=names)
    first, second = intervals.intervals(tmp_path / "scores.npz")
    for at, row in enumerate((first, second)):
        each = [torch.from_numpy(score[source == number, at]) for number in range(3)]
        auroc = np.mean([ood_metrics(each[0], ood)["auroc"] for ood in each[1:]])
        assert float(row["auroc"]) == pytest.approx(auroc, abs=1e-5)
        assert float(row["auroc_low"]) < auroc < float(row["auroc_high"])
    assert first["lead_low"] == first["lead_high"] == "0.00000"
    assert float(second["lead_high"]) < 0
