"""Every configuration that ships composes, instantiates and fits together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from src.benchmark import Benchmark
from src.block_selection import BlockSelection
from src.classifier import Classifier
from tests import REPOSITORY

CONF = REPOSITORY / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
FOLDERS = (
    *("data=cifar10_folder", "data.train.sample=20", "data.test.sample=20"),
    *(
        f"data.ood.{name}.sample=2"
        for name in OmegaConf.load(CONF / "data/cifar10_folder.yaml").ood
    ),
)
AUGMENTATIONS = sorted(path.stem for path in (CONF / "augmentation").glob("*.yaml"))
SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
PRETRAINED = [experiment for experiment in EXPERIMENTS if experiment.endswith("_imagenet")]
CHOICES = sorted(
    f"{group}={choice}"
    for path in CONF.rglob("*.yaml")
    for group, _, choice in [path.relative_to(CONF).with_suffix("").as_posix().partition("/")]
    if choice
    and group not in ("experiment", "debug", "sweep")
    and choice != "none"
    and not choice.startswith("base/")
)
NETWORKS = {
    "resnet18": (8, 11_173_962),
    "wrn28_10": (12, 36_479_194),
    "vgg11": (8, 9_750_922),
    "imagenet/resnet50": (16, 25_557_032),
    "imagenet/vgg16": (13, 138_357_544),
    "imagenet/mobilenet_v3_large": (17, 5_483_032),
}


@pytest.fixture
def composed() -> Iterator[Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield compose


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each class and of each OOD set, where the configs look."""
    root = tmp_path_factory.mktemp("data")
    folders = [f"cifar10/{part}/{k}" for part in ("train", "test") for k in range(10)]
    folders += [f"imagenet/{part}/{k:03}" for part in ("train", "val") for k in range(1000)]
    folders += [f"ood32/{name}" for name in OmegaConf.load(CONF / "data/cifar10_folder.yaml").ood]
    folders += OmegaConf.load(CONF / "data/paper_imagenet.yaml").ood
    for folder in (root / name for name in folders):
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
    return root


def training_of(cfg: DictConfig) -> tuple[Classifier, Benchmark]:
    """What `src.train` builds before it trains."""
    network, data = instantiate(cfg.net), instantiate(cfg.data)
    data.check_network(network.num_classes, network.image_shape)
    benchmark = Benchmark(network, instantiate(cfg.detectors), data.sources)
    objective = instantiate(cfg.objective)
    return Classifier(network, objective=objective, **instantiate(cfg.optim)), benchmark


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "more"),
    [
        *[(name, []) for name in EXPERIMENTS if name not in ("cifar10_brief", *PRETRAINED)],
        *[(name, [*FOLDERS]) for name in EXPERIMENTS if name not in ("mnist_5k_ood", *PRETRAINED)],
        *[(name, ["data.train.sample=2000"]) for name in PRETRAINED],
    ],
)
def test_every_experiment_composes_and_instantiates(
    experiment: str, more: list[str], composed: Any, data_dir: Path, tmp_path: Path
) -> None:
    overrides = [f"experiment={experiment}", f"data_dir={data_dir}", f"run_dir={tmp_path}"]
    cfg = composed("train", [*overrides, *more, "logger=csv", "net.weights=null"])
    assert cfg.name == experiment
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)

    classifier, benchmark = training_of(cfg)
    optimizer = classifier.optimizer(classifier.network.parameters())
    steps = {"total_steps": 10} if classifier.interval == "step" else {}
    assert classifier.scheduler(optimizer, **steps).optimizer is optimizer
    assert set(benchmark.columns) >= {"featurenorm", "msp"}
    selection = instantiate(cfg.selection)
    assert isinstance(selection, BlockSelection)
    selection.pseudo_ood(torch.zeros(1, *classifier.network.image_shape), torch.arange(1))
    assert isinstance(instantiate(cfg.trainer, logger=False), L.Trainer)
    (logger,) = instantiate(cfg.logger).values()
    assert isinstance(logger, CSVLogger)
    assert Path(logger.log_dir) == tmp_path


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_opens_with_its_source_and_its_command(experiment: str) -> None:
    lines = (CONF / f"experiment/{experiment}.yaml").read_text().splitlines()
    comments = lines[: next(row for row, line in enumerate(lines) if not line.startswith("#"))]
    assert comments[0] == "# @package _global_"
    assert len(comments[1]) > 30
    command = "src.evaluate" if experiment in PRETRAINED else "src.train"
    assert any(
        line.startswith(f"# python -m {command} experiment={experiment}") for line in comments
    )
    assert f"name: {experiment}" in lines


def place_of(choice: str) -> str:
    """The key under which a choice of a group lies."""
    group = choice.partition("=")[0]
    return "data" if group == "augmentation" else group


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes_and_resolves(choice: str, composed: Any) -> None:
    group = place_of(choice)
    cfg = composed("train", [choice, "run_dir=elsewhere"])
    assert OmegaConf.to_container(cfg[group], resolve=True, throw_on_missing=True)
    assert composed("evaluate", [choice])[group]


def leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each setting below a node."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


@pytest.mark.slow
def test_every_setting_can_be_changed_from_the_command_line(composed: Any) -> None:
    parse = OverridesParser.create().parse_override
    for choice in CHOICES:
        group = place_of(choice)
        config = OmegaConf.to_container(composed("train", [choice])[group], resolve=False)
        settings = dict(leaves(config, f"{group}."))
        assert [parse(f"{key}=1").key_or_group for key in settings] == [*settings]


@pytest.mark.slow
@pytest.mark.parametrize("choice", [each for each in CHOICES if each.startswith("detectors=")])
def test_every_column_can_be_changed_or_left_out(choice: str, composed: Any) -> None:
    for name in composed("train", [choice]).detectors:
        cfg = composed("train", [choice, f"detectors.{name}._target_=src.detectors.MSP"])
        assert cfg.detectors[name]._target_ == "src.detectors.MSP"
        assert name not in composed("train", [choice, f"~detectors.{name}"]).detectors


def test_a_line_of_a_configuration_can_be_read() -> None:
    files = [path for group in ("data", "net") for path in (CONF / group).rglob("*.yaml")]
    long = [(path.name, line) for path in files for line in path.read_text().splitlines()
            if len(line) > 120]  # fmt: skip
    assert files
    assert not long


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_blocks_and_the_parameters_of_the_paper(
    name: str, composed: Any
) -> None:
    cfg = composed("train", [f"net={name}", "net.weights=null", "run_dir=elsewhere"])
    network = instantiate(cfg.net)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (len(network.blocks), parameters) == NETWORKS[name]


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_value_of_a_named_sweep_composes(sweep: str, composed: Any) -> None:
    overrides = ["experiment=cifar10_brief", f"sweep={sweep}", "run_dir=elsewhere"]
    hydra = composed("train", overrides, return_hydra_config=True).hydra
    assert hydra.mode.name == "MULTIRUN"  # with and without -m
    for key, values in hydra.sweeper.params.items():
        assert len(values.split(",")) > 1
        for value in values.split(","):
            cfg = composed("train", [*overrides, f"{key}={value}", "net.weights=null"])
            selection = instantiate(cfg.selection)
            selection.check(instantiate(cfg.net))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_follows_the_crop_of_its_data(name: str, composed: Any) -> None:
    for data, padding in (("mnist_5k", 2), ("cifar10", 4)):
        cfg = composed("train", [f"data={data}", f"augmentation={name}", "run_dir=elsewhere"])
        composite = instantiate(cfg.data.augmentation)
        mixing = instantiate(cfg.data.get("mixing"))
        first, *others = composite.augmentations
        assert composite.augmentations[first].padding == padding
        assert others == ([] if mixing else [name])
    lines = (CONF / f"augmentation/{name}.yaml").read_text().splitlines()
    assert f"# python -m src.train augmentation={name}" in lines
    both = composed("train", [f"augmentation=[{name},cutout]", "run_dir=elsewhere"])
    assert "cutout" in both.data.augmentation


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_opens_with_what_it_is_and_its_command(sweep: str) -> None:
    lines = (CONF / f"sweep/{sweep}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert any(line.startswith("# python -m src.train -m ") for line in lines)
    assert any(f"sweep={sweep}" in line for line in lines if line.startswith("#"))
