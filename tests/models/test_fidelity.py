"""FeatureNorm and NormRatio of the paper's networks, against loops written from the paper."""

import os
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from src.classifier import Classifier
from src.data import ImageData, ImageFolder, ImageSet, Source
from src.data.digits import Photographs
from src.models import WideResNet, resnet18, vgg11
from src.network import Network
from tests import REPOSITORY

CONF = REPOSITORY / "conf"
COUNT = 12
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet18": (lambda: resnet18(stem_padding=2), r"layer[1-4]\.\d+"),
    "wrn28_10": (lambda: WideResNet(28, 10), r"block[1-3]\.layer\.\d+"),
    "vgg11": (vgg11, r"features\.(1|4|7|10|12|14|17|19)"),
}


class Images(Source):
    """Real images: CIFAR-10 where BSOOD_DATA_DIR names a folder of it, else three grey patches as
    the colours of one.
    """

    classes = tuple(str(label) for label in range(10))

    def load(self) -> ImageSet:
        if folder := os.environ.get("BSOOD_DATA_DIR"):
            images = ImageFolder(Path(folder) / "cifar10" / "test", 32).load()
            return images.subset(torch.arange(0, len(images), len(images) // COUNT)[:COUNT])
        grey = Photographs(3 * COUNT, 32).load().image
        return ImageSet(grey.view(COUNT, 3, 32, 32), torch.arange(COUNT) % 10, self.classes)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    """Random weights, with the batch-norm statistics of real images."""
    torch.manual_seed(0)
    make, blocks = NETWORKS[request.param]
    network = Network(make(), blocks)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average over all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for batch in Images().load().image.split(8):
            network(batch / 255)
    return network.eval()


def maps_of(network: Network, image: Tensor) -> dict[str, Tensor]:
    """Every block's output, caught by a hook of its own."""
    maps: dict[str, Tensor] = {}
    handles = [
        network.net.get_submodule(block).register_forward_hook(
            lambda _module, _inputs, output, block=block: maps.update({block: output.clone()})
        )
        for block in network.blocks
    ]
    with torch.no_grad():
        network.net(image)
    for handle in handles:
        handle.remove()
    return maps


def norm_by_the_paper(feature_map: Tensor) -> float:
    """a_i = sqrt(sum over positions of max(z_i, 0)^2); f = mean of a_i over channels, i."""
    activations = []
    for channel in feature_map.double().numpy():
        total = 0.0
        for value in channel.ravel().tolist():
            total += max(value, 0.0) ** 2
        activations.append(sqrt(total))
    return sum(activations) / len(activations)


def puzzle_by_the_authors(image: Tensor, order: list[int]) -> Tensor:
    """Nine tiles of side W // 3 put onto a black image, as `utils/dataset.py` does."""
    side = image.shape[2] // 3
    puzzle = torch.zeros_like(image)
    for place, tile in enumerate(order):
        row, column = place // 3 * side, place % 3 * side
        top, left = tile // 3 * side, tile % 3 * side
        puzzle[:, row : row + side, column : column + side] = image[
            :, top : top + side, left : left + side
        ]
    return puzzle


@pytest.mark.slow
def test_feature_norm_of_every_block_agrees_with_the_loop_of_the_paper(network: Network) -> None:
    image = Images().load().image[:2].float() / 255
    with torch.no_grad():
        seen = network.observe(image).norm
    maps = maps_of(network, (image - 0.5) / 0.5)
    assert tuple(maps) == network.blocks
    for block in network.blocks:
        expected = [norm_by_the_paper(feature_map) for feature_map in maps[block]]
        assert seen[block].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_official_norm_ratio_agrees_with_algorithm_1(network: Network, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["selection=official", f"run_dir={tmp_path}"])
    selection = instantiate(cfg.selection)
    data = ImageData(Images(), Images(), {}, eval_batch_size=10, validation_size=4)
    trainer = L.Trainer(
        callbacks=[selection], default_root_dir=tmp_path, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        inference_mode=False,
    )  # fmt: skip
    trainer.validate(Classifier(network), datamodule=data, verbose=False)

    images = data.selection_dataloader().dataset.image.float() / 255  # all, in the order numbered
    orders = selection.pseudo_ood.order(torch.arange(COUNT)).tolist()
    ratios: dict[str, list[float]] = {block: [] for block in network.blocks}
    for image, order in zip(images, orders, strict=True):
        puzzle = puzzle_by_the_authors(image, order)
        maps = maps_of(network, torch.stack((image, puzzle)))  # not normalised
        for block in network.blocks:
            norm = maps[block].double().relu().square().sum(dim=(2, 3)).sqrt().mean(dim=1)
            ratios[block].append((norm[0] / norm[1]).item())
    expected = {block: sum(values) / COUNT for block, values in ratios.items()}
    assert network.norm_ratio == pytest.approx(expected, rel=1e-5)
    assert network.selected == max(expected, key=expected.__getitem__)
