"""Every configuration that ships composes, instantiates and fits together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from src.benchmark import Benchmark
from src.block_selection import BlockSelection
from src.classifier import Classifier

CONF = Path(__file__).parent.parent / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
CHOICES = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "debug") and path.stem != "none"
)
OF_EVALUATE = ("data", "selection", "detectors", "trainer", "logger")
NETWORKS = {
    "resnet18": (8, 11_173_962),
    "wrn28_10": (12, 36_479_194),
    "vgg11": (8, 9_750_922),
}


@pytest.fixture
def composed() -> Iterator[Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield compose


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each of ten classes and two of each OOD set, where the configs look."""
    root = tmp_path_factory.mktemp("data")
    folders = [root / f"cifar10/{part}/{k}" for part in ("train", "test") for k in range(10)]
    sets = OmegaConf.load(CONF / "data/cifar10_folder.yaml").ood
    for folder in (*folders, *(root / f"ood32/{name}" for name in sets)):
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
    return root


def training_of(cfg: DictConfig) -> tuple[Classifier, Benchmark]:
    """What `src.train` builds before it trains."""
    network, data = instantiate(cfg.net), instantiate(cfg.data)
    data.check_classes(network.num_classes)
    benchmark = Benchmark(network, instantiate(cfg.detectors), data.sources)
    return Classifier(network, **instantiate(cfg.optim)), benchmark


@pytest.mark.parametrize("data", ["as it says", "cifar10_folder"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_instantiates(
    experiment: str, data: str, composed: Any, data_dir: Path, tmp_path: Path
) -> None:
    overrides = [f"experiment={experiment}", f"data_dir={data_dir}", f"run_dir={tmp_path}"]
    overrides += ["logger=csv"] + ([] if data == "as it says" else [f"data={data}"])
    cfg = composed("train", overrides)
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
    assert f"# python -m src.train experiment={experiment}" in comments
    assert f"name: {experiment}" in lines


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes_and_resolves(choice: str, composed: Any) -> None:
    group = choice.partition("=")[0]
    cfg = composed("train", [choice, "run_dir=elsewhere"])
    assert OmegaConf.to_container(cfg[group], resolve=True, throw_on_missing=True)
    if group in OF_EVALUATE:
        assert composed("evaluate", [choice])[group]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_blocks_and_the_parameters_of_the_paper(
    name: str, composed: Any
) -> None:
    network = instantiate(composed("train", [f"net={name}", "run_dir=elsewhere"]).net)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (len(network.blocks), parameters) == NETWORKS[name]
