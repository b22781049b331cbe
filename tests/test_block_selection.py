"""Laws of block selection, on real trainings of a tiny network."""

import csv
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from src.block_selection import BlockSelection
from src.classifier import Classifier
from src.data import ImageData
from src.data.pseudo_ood import Jigsaw
from src.models import ResNet
from src.network import Network
from tests.fakes import Memory

BLOCKS = ("layer1.0", "layer2.0", "layer3.0", "layer4.0")
IMAGES, HELD_OUT, BATCH, EPOCHS, SANITY = 30, 10, 4, 2, 2
VALIDATION_BATCHES, ALL_BATCHES = 3, 8  # of 4; the last of each holds two padding rows
OFFICIAL = {"split": "training", "normalised": False}


class Run:
    """A classifier, its data and a trainer, and a note of each forward pass of the network."""

    def __init__(
        self, *callbacks: L.Callback, eval_batch_size: int = BATCH, **options: Any
    ) -> None:
        torch.manual_seed(0)
        net = ResNet((1, 1, 1, 1), width=4, num_classes=3)
        self.network = Network(net, BLOCKS, image_shape=(3, 12, 12))
        self.classifier = Classifier(
            self.network, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05)
        )
        self.data = ImageData(
            Memory(IMAGES), Memory(4), {}, batch_size=8, eval_batch_size=eval_batch_size,
            validation_size=HELD_OUT,
        )  # fmt: skip
        self.trainer = L.Trainer(
            accelerator="cpu", max_epochs=EPOCHS, logger=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=SANITY, callbacks=list(callbacks),
            enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), **options,
        )  # fmt: skip
        self.forwards: list[str] = []

    def note(self, *_: Any) -> None:
        sanity, stage = self.trainer.sanity_checking, "validate"
        if self.network.training:
            stage = "train"
        assert torch.is_grad_enabled() == self.network.training
        self.forwards.append("sanity" if sanity else stage)

    def __call__(self, stage: str = "fit") -> "Run":
        handle = self.network.net.register_forward_hook(self.note)
        try:
            getattr(self.trainer, stage)(self.classifier, datamodule=self.data)
        finally:
            handle.remove()
        return self

    @property
    def open_hooks(self) -> int:
        return sum(len(module._forward_hooks) for module in self.classifier.modules())


class Watch(L.Callback):
    """Notes what is selected when training starts and after each epoch."""

    def __init__(self) -> None:
        self.selected: list[str | None] = []

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.selected.append(module.network.selected)

    def on_train_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        self.selected.append(module.network.selected)


class Interrupt(L.Callback):
    """Fails in the middle of a validation."""

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if not trainer.sanity_checking:
            raise OSError("disk full")


def block_norms(net: ResNet, image: Tensor) -> Tensor:
    """(L,) FeatureNorms of one (C, H, W) image, stage by stage."""
    x, norms = F.relu(net.bn1(net.conv1(image[None]))), []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = stage(x)
        norms.append(x[0].clamp_min(0).square().sum(dim=(1, 2)).sqrt().mean())
    return torch.stack(norms)


@torch.no_grad()
def ratio_by_loop(network: Network, pseudo_ood: Jigsaw, **form: Any) -> dict[str, float]:
    """NormRatio from Algorithm 1, image by image, in float64."""
    net = deepcopy(network.net).double().eval()
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    count = IMAGES if form.get("split") == "training" else HELD_OUT
    image = Memory(IMAGES).images.image[order[:count]].double() / 255
    ratio = torch.zeros(len(BLOCKS), dtype=torch.float64)
    for index in range(count):
        clean = image[index]
        puzzle = pseudo_ood(clean[None], torch.tensor([index]))[0]
        if form.get("normalised", True):
            clean, puzzle = (clean - 0.5) / 0.5, (puzzle - 0.5) / 0.5
        ratio += block_norms(net, clean) / block_norms(net, puzzle) / count
    return dict(zip(BLOCKS, ratio.tolist(), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Two epochs in the default form, with history and checkpoint."""
    selection = BlockSelection(Jigsaw(seed=3), history=True)
    checkpoint = ModelCheckpoint(dirpath=folder, save_last=True)
    return Run(selection, checkpoint, Watch(), default_root_dir=folder / "sub")()


def history_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sub" / "norm_ratio.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_selection_equals_a_loop_over_the_held_out_images(run: Run) -> None:
    expected = ratio_by_loop(run.network, Jigsaw(seed=3))
    assert run.network.norm_ratio == pytest.approx(expected, rel=1e-5)
    assert run.network.selected == max(expected, key=expected.__getitem__)
    assert list(run.network.norm_ratio) == list(BLOCKS)


@pytest.mark.parametrize(
    "form",
    [OFFICIAL, {"split": "training"}, {"normalised": False}],
    ids=["official", "training", "unnormalised"],
)
def test_every_form_of_selection_equals_its_loop(form: dict[str, Any]) -> None:
    run = Run(BlockSelection(Jigsaw(), **form))()
    expected = ratio_by_loop(run.network, Jigsaw(), **form)
    assert run.network.norm_ratio == pytest.approx(expected, rel=1e-5)
    assert run.network.norm_ratio != pytest.approx(ratio_by_loop(run.network, Jigsaw()), rel=1e-5)
    assert run.open_hooks == 0


def test_selection_adds_exactly_one_forward_per_validation_batch(run: Run) -> None:
    assert run.forwards.count("validate") == EPOCHS * VALIDATION_BATCHES * 2
    assert run.forwards.count("train") == EPOCHS * 2
    assert run.forwards.count("sanity") == SANITY


def test_the_official_form_adds_two_forwards_per_batch_of_all_training_images() -> None:
    run = Run(BlockSelection(Jigsaw(), **OFFICIAL))()
    assert run.forwards.count("validate") == EPOCHS * (VALIDATION_BATCHES + 2 * ALL_BATCHES)


@pytest.mark.parametrize("form", [{}, OFFICIAL], ids=["default", "official"])
def test_padding_rows_do_not_count(form: dict[str, Any]) -> None:
    ratios = []
    for batch_size in (1, 4, 7, 10, 25):
        run = Run(BlockSelection(Jigsaw(), **form), eval_batch_size=batch_size)("validate")
        ratios.append(run.network.norm_ratio)
    for ratio in ratios[1:]:
        assert ratio == pytest.approx(ratios[0], rel=1e-6)


def test_the_sanity_check_selects_nothing(run: Run) -> None:
    watch = next(c for c in run.trainer.callbacks if isinstance(c, Watch))
    assert watch.selected[0] is None
    assert None not in watch.selected[1:]
    assert run.trainer.num_sanity_val_batches == [SANITY]


def test_the_history_has_one_row_per_block_and_epoch(run: Run, folder: Path) -> None:
    rows = history_of(folder)
    assert list(rows[0]) == [
        "epoch", "block", "depth", "norm_id", "norm_pseudo_ood", "ratio", "selected",
    ]  # fmt: skip
    assert [(int(row["epoch"]), row["block"], int(row["depth"])) for row in rows] == [
        (epoch, block, depth) for epoch in range(EPOCHS) for depth, block in enumerate(BLOCKS, 1)
    ]
    assert all(float(row["norm_id"]) > 0 < float(row["norm_pseudo_ood"]) for row in rows)


def test_the_last_epoch_of_the_history_is_the_selection(run: Run, folder: Path) -> None:
    last = history_of(folder)[-len(BLOCKS) :]
    assert {row["block"]: float(row["ratio"]) for row in last} == run.network.norm_ratio
    assert [row["block"] for row in last if row["selected"] == "1"] == [run.network.selected]
    watch = next(c for c in run.trainer.callbacks if isinstance(c, Watch))
    first = history_of(folder)[: len(BLOCKS)]
    assert [row["block"] for row in first if row["selected"] == "1"] == watch.selected[1:2]


def test_the_curves_the_block_and_the_margin_are_logged(run: Run) -> None:
    logged = {name: float(value) for name, value in run.trainer.callback_metrics.items()}
    ratio = run.network.norm_ratio
    best, second = sorted(ratio.values(), reverse=True)[:2]
    for block in BLOCKS:
        assert logged[f"norm_ratio/{block}"] == pytest.approx(ratio[block], rel=1e-6)
    assert logged["selected_block"] == BLOCKS.index(str(run.network.selected)) + 1
    assert logged["norm_ratio_margin"] == pytest.approx(best - second, abs=1e-6)


def test_no_hook_outlives_a_training(run: Run) -> None:
    assert run.open_hooks == 0


def test_no_hook_outlives_an_interrupted_validation() -> None:
    run = Run(BlockSelection(Jigsaw()), Interrupt())
    with pytest.raises(OSError, match="disk full"):
        run()
    assert run.open_hooks == 0


def test_the_selection_is_in_the_checkpoint_of_its_epoch(run: Run, folder: Path) -> None:
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["network._extra_state"] == run.network.norm_ratio
    other = Run()
    other.classifier.load_state_dict(checkpoint["state_dict"])
    assert other.network.selected == run.network.selected
    assert other.network.norm_ratio == run.network.norm_ratio


def test_selection_does_not_change_the_training(run: Run) -> None:
    expected = Run()().network.net.state_dict()
    for name, value in run.network.net.state_dict().items():
        assert value.equal(expected[name]), name


def test_both_halves_are_measured_in_the_precision_of_the_trainer() -> None:
    run = Run(BlockSelection(Jigsaw()), eval_batch_size=5, precision="bf16-mixed")("validate")
    data, network, ratio = run.data, run.network.eval(), []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for batch in data.val_dataloader():
            image = batch.image / 255
            clean, puzzle = (
                torch.stack([*network.observe(x).norm.values()], 1).double()
                for x in (image, Jigsaw()(image, batch.index))
            )
            ratio.append(clean / puzzle)
    expected = torch.cat(ratio).mean(dim=0).tolist()
    assert list(network.norm_ratio.values()) == pytest.approx(expected, rel=1e-6)
    full = ratio_by_loop(network, Jigsaw())
    assert network.norm_ratio != pytest.approx(full, rel=1e-6)
    assert network.norm_ratio == pytest.approx(full, rel=0.02)


def test_images_that_are_their_own_pseudo_ood_give_one_and_the_deepest_block() -> None:
    run = Run(BlockSelection(lambda image, index: image))("validate")
    assert list(run.network.norm_ratio.values()) == [1.0] * len(BLOCKS)
    assert run.network.selected == BLOCKS[-1]


@pytest.mark.parametrize(
    ("pseudo_ood", "says"),
    [(Jigsaw(13), "at most 12.*got 13"), (lambda image, index: image.view(3, 3), None)],
    ids=["grid", "view"],  # of the latter, torch chooses the words
)
def test_a_misfit_shows_before_the_first_forward(
    pseudo_ood: Callable[[Tensor, Tensor], Tensor], says: str | None
) -> None:
    run = Run(BlockSelection(pseudo_ood))
    with pytest.raises((ValueError, RuntimeError), match=says):
        run()
    assert run.forwards == []


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'validation' or 'training', got 'test'"):
        BlockSelection(Jigsaw(), split="test")


@pytest.mark.parametrize("blocks", [("layer3.0",), ("layer4.0", "layer1.0")])
def test_any_number_of_blocks_can_be_watched(blocks: Sequence[str]) -> None:
    run = Run(BlockSelection(Jigsaw()))
    net = run.network.net
    run.network = Network(net, blocks, image_shape=(3, 12, 12))
    run.classifier = Classifier(run.network)
    run("validate")
    assert list(run.network.norm_ratio) == sorted(blocks)
    margin = float(run.trainer.callback_metrics["norm_ratio_margin"])
    assert margin == 0 if len(blocks) == 1 else margin > 0
