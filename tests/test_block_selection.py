"""Laws of block selection, on real trainings of a tiny network."""

import csv
import json
import logging
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
from src.data.pseudo_ood import Jigsaw, Jigsaws
from src.metrics.ood import ood_metrics
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


# ---- other criteria than NormRatio

GRIDS = Jigsaws((2, 3, 4), seed=3)
OTHERS = ("paired_t", "auroc")


@torch.no_grad()
def by_loop(network: Network, criterion: str) -> list[float]:
    """A criterion from its definition, image by image, in float64."""
    net = deepcopy(network.net).double().eval()
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    image = Memory(IMAGES).images.image[order[:HELD_OUT]].double() / 255
    rows = []
    for index in range(HELD_OUT):
        puzzle = GRIDS(image[index : index + 1], torch.tensor([index]))[0]
        rows.append([block_norms(net, (x - 0.5) / 0.5) for x in (image[index], puzzle)])
    clean, puzzle = (torch.stack(each) for each in zip(*rows, strict=True))
    if criterion == "auroc":
        pairs = zip(clean.T, puzzle.T, strict=True)
        return [ood_metrics(ours, theirs)["auroc"] for ours, theirs in pairs]
    gap = (clean / puzzle).log()
    return (gap.mean(dim=0) / gap.std(dim=0, correction=0)).tolist()


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs with another criterion, with history, checkpoint and stability."""
    folder = tmp_path_factory.mktemp("other")
    selection = BlockSelection(
        GRIDS, criterion=request.param, history=True, bootstrap=50, stability_seeds=1
    )
    checkpoint = ModelCheckpoint(dirpath=folder / "checkpoints", save_last=True)
    run = Run(selection, checkpoint, default_root_dir=folder)
    return run()


def test_another_criterion_equals_its_loop_and_selects(other: Run) -> None:
    network = other.network
    assert list(network.measured) == ["norm_ratio", network.criterion]
    values = network.measured[network.criterion]
    assert list(values.values()) == pytest.approx(by_loop(network, network.criterion), rel=1e-4)
    assert network.selected == max(values, key=values.__getitem__)
    assert network.block("selected") == network.selected


def test_it_costs_one_forward_per_batch_for_any_number_of_grids(other: Run) -> None:
    repeated = VALIDATION_BATCHES  # in the last epoch, with the one other seed
    assert other.forwards.count("validate") == EPOCHS * VALIDATION_BATCHES * 2 + repeated


def test_norm_ratio_and_the_training_are_those_of_the_default(other: Run, tmp_path: Path) -> None:
    default = Run(BlockSelection(GRIDS, history=True), default_root_dir=tmp_path)()
    assert default.network.measured == {"norm_ratio": other.network.norm_ratio}
    for name, value in default.network.net.state_dict().items():
        assert value.equal(other.network.net.state_dict()[name]), name
    ours, theirs = (
        [row | {"selected": ""} for row in csv.DictReader((place / "norm_ratio.csv").open())]
        for place in (Path(other.trainer.default_root_dir), tmp_path)
    )
    assert ours == theirs


def test_it_is_logged_beside_norm_ratio(other: Run) -> None:
    logged = {name: float(value) for name, value in other.trainer.callback_metrics.items()}
    network, name = other.network, other.network.criterion
    for block in BLOCKS:
        assert logged[f"norm_ratio/{block}"] == pytest.approx(network.norm_ratio[block], rel=1e-6)
        assert logged[f"{name}/{block}"] == pytest.approx(network.measured[name][block], rel=1e-6)
        assert logged[f"standard_error/{block}"] > 0
    for each in ("norm_ratio", name):
        best, second = sorted(network.measured[each].values(), reverse=True)[:2]
        assert logged[f"{each}_margin"] == pytest.approx(best - second, abs=1e-6)
    assert logged["selected_block"] == BLOCKS.index(str(network.selected)) + 1


def test_its_files_say_how_it_selected(other: Run) -> None:
    folder, network = Path(other.trainer.default_root_dir), other.network
    said = json.loads((folder / "selection.json").read_text())
    assert list(said) == ["epoch", "criterion", "value", "standard_error", "tied"]
    assert (said["epoch"], said["criterion"]) == (EPOCHS - 1, network.criterion)
    assert said["value"] == network.measured[network.criterion]
    with (folder / "norm_ratio.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-len(BLOCKS) :]
    assert [row["block"] for row in last if row["selected"] == "1"] == [network.selected]
    stability = json.loads((folder / "selection_stability.json").read_text())
    assert sum(stability["bootstrap"]["share"].values()) == pytest.approx(1)
    (seed,) = stability["seeds"]
    assert list(seed) == ["seed", "selected", network.criterion]
    repeated = Run(BlockSelection(Jigsaws((2, 3, 4), seed=4), criterion=network.criterion))
    repeated.network.load_state_dict(network.state_dict())
    repeated("validate")
    assert seed["selected"] == repeated.network.selected
    values = repeated.network.measured[network.criterion]
    assert seed[network.criterion] == pytest.approx(values, rel=1e-6)


def test_it_travels_with_the_weights(other: Run) -> None:
    path = Path(other.trainer.default_root_dir) / "checkpoints/last.ckpt"
    state = torch.load(path, weights_only=True)["state_dict"]
    loaded = Run()
    loaded.classifier.load_state_dict(state)
    assert loaded.network.measured == other.network.measured
    assert loaded.network.criterion == other.network.criterion
    assert loaded.network.selected == other.network.selected


@pytest.mark.parametrize("criterion", OTHERS)
def test_padding_rows_do_not_count_for_it(criterion: str) -> None:
    values = []
    for batch_size in (1, 4, 7, 10, 25):
        selection = BlockSelection(GRIDS, criterion=criterion)
        run = Run(selection, eval_batch_size=batch_size)("validate")
        values.append(run.network.measured[criterion])
    for each in values[1:]:
        assert each == pytest.approx(values[0], rel=1e-4)


def test_a_tie_is_told_and_names_both_blocks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "src.block_selection"):
        for criterion in ("norm_ratio", *OTHERS):
            selection = BlockSelection(
                lambda image, index: image, criterion=criterion, history=True
            )  # nothing tells the blocks apart
            Run(selection, default_root_dir=tmp_path / criterion)("validate")
            said = json.loads((tmp_path / criterion / "selection.json").read_text())
            assert said["tied"] == ["layer4.0", "layer3.0"]
    told = [line for line in caplog.messages if "selected block" in line]
    assert [line.partition("layer4.0, ")[2] for line in told] == [
        "NormRatio 1.0000, margin 0.0000, tied with layer3.0",
        "paired T 0.0000, margin 0.0000, tied with layer3.0",
        "AUROC 0.5000, margin 0.0000, tied with layer3.0",
    ]


@pytest.mark.parametrize("criterion", ["norm_ratio", *OTHERS])
def test_a_single_block_is_never_tied(criterion: str, tmp_path: Path) -> None:
    selection = BlockSelection(GRIDS, criterion=criterion, history=True, bootstrap=20)
    run = Run(selection, default_root_dir=tmp_path)
    run.network = Network(run.network.net, ("layer3.0",), image_shape=(3, 12, 12))
    run.classifier = Classifier(run.network)
    run("validate")
    assert run.network.selected == "layer3.0"
    assert json.loads((tmp_path / "selection.json").read_text())["tied"] == []
    assert selection.stability["bootstrap"]["share"] == {"layer3.0": 1.0}


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(ValueError, match="one of norm_ratio, paired_t, auroc, got 'd_prime'"):
        BlockSelection(Jigsaw(), criterion="d_prime")


def test_a_selection_by_another_criterion_does_not_cover(other: Run) -> None:
    assert BlockSelection(GRIDS, criterion=other.network.criterion).covers(other.network)
    assert not BlockSelection(GRIDS).covers(other.network)
