"""The parts of a run, built from its configuration and checked against each other."""

__all__ = ["Parts", "build"]

from typing import Any, NamedTuple, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.benchmark import Benchmark
from src.block_selection import BlockSelection
from src.classifier import Classifier
from src.data import ImageData
from src.run.checkpoint import load_state
from src.run.configuration import without_ood
from src.run.rebuild import network_of
from src.run.settings import check_schedule

WATCHING = ("callbacks", "profiler")  # a training, not the network that a checkpoint describes


class Parts(NamedTuple):
    """What a run consists of."""

    classifier: Classifier
    data: ImageData
    benchmark: Benchmark
    selection: BlockSelection | None  # None if no block is to be selected


def build(cfg: DictConfig, *, state: dict[str, Any] | None = None, trains: bool) -> Parts:
    """Builds network, images, detectors and selection, and refuses what does not fit together.

    Args:
        cfg: Configuration of the run.
        state: State dict of the classifier to load.
        trains: Whether a training follows. It always selects a block if a selection is
            configured; an evaluation does so if the network has none or `reselect` is set.

    Raises:
        ValueError: If two parts do not fit, such as network and images of other classes.
        RuntimeError: If a detector needs a selected block and none will be selected.
    """
    if trains:
        check_schedule(cfg)
    network = network_of(cfg.net, state, cfg.checkpoint) if state else instantiate(cfg.net)
    data = instantiate(cfg.data if cfg.benchmark else without_ood(cfg.data))
    data.check_network(network.num_classes, network.image_shape)
    optim = {}
    if trains:
        config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
        for name in WATCHING:
            config["trainer"].pop(name, None)
        optim = {**instantiate(cfg.optim), "compiled": cfg.compiled, "config": config}
        optim["objective"] = instantiate(cfg.objective)
    classifier = Classifier(network, channels_last=cfg.channels_last, **optim)
    if state is not None:
        load_state(classifier, state, cfg.checkpoint)
    autocast = False if trains else cfg.autocast
    benchmark = Benchmark(network, instantiate(cfg.detectors), data.sources, autocast=autocast)
    selection = None
    if trains or network.selected is None or cfg.reselect:
        selection = instantiate(cfg.selection)
    if selection is not None:
        selection.check(network)
    elif trains or cfg.benchmark:
        benchmark.check_selection()
    return Parts(classifier, data, benchmark, selection)
