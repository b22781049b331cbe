"""The configuration of a run: completed from a checkpoint, made smaller, named."""

__all__ = [
    "check_trained",
    "complete",
    "id_images",
    "network_name",
    "run_name",
    "sweep",
    "without_weights",
]

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict


def complete(cfg: DictConfig, trained: dict[str, Any], asked: list[str]) -> DictConfig:
    """Returns the configuration of the training with what is asked for now in its place.

    Args:
        cfg: configuration composed now.
        trained: configuration of the training.
        asked: keys and groups that the command line names.

    Raises:
        ValueError: if an experiment is asked for, which would be another training.
    """
    if other := {"experiment", "debug"} & set(asked):
        raise ValueError(
            f"expected a checkpoint or an experiment, got checkpoint and {', '.join(other)}; "
            "choose single groups beside a checkpoint: data=, selection=, detectors=, trainer="
        )
    complete = OmegaConf.create(trained)
    with open_dict(complete):
        for key in (*asked, "benchmark", "logger", "job_type", "group", "run_dir", "checkpoint"):
            group, _, last = key.rpartition(".")
            if last in (OmegaConf.select(cfg, group) if group else cfg):
                OmegaConf.update(complete, key, OmegaConf.select(cfg, key), merge=False)
            else:  # asked for with a tilde, or a group that is empty
                (OmegaConf.select(complete, group) if group else complete).pop(last, None)
        complete.net = without_weights(complete.net)  # those of the checkpoint follow
    return complete


def check_trained(cfg: DictConfig) -> None:
    """Refuses to benchmark a network of random weights.

    Raises:
        ValueError: if a network of ours or of torchvision is to be built without weights.
    """
    builder: str = cfg.net.net._target_
    if cfg.net.get("weights") is None and builder.startswith(("src.models", "torchvision.models")):
        raise ValueError(
            f"expected a trained network, got neither a checkpoint nor weights of {builder}; "
            "set checkpoint=<file of src.train>, or net.weights=<file or name in torchvision>"
        )


def without_weights(net: DictConfig) -> DictConfig:
    """Returns the configuration of a network that downloads and reads no weights."""
    net = net.copy()
    with open_dict(net):
        net.weights = None
        if "pretrained" in net.net:  # timm's
            net.net.pretrained = False
    return net


def id_images(data: DictConfig) -> DictConfig:
    """Returns the configuration of the images without OOD sets, for a run that scores none."""
    data = data.copy()
    with open_dict(data):
        data.ood, data.groups, data.match_codec = {}, {}, False
    return data


def run_name(cfg: DictConfig) -> str:
    """Returns what tells a run from the others of a sweep over networks and seeds."""
    parts = [cfg.name, network_name(cfg), str(cfg.seed)]
    if parts[1].lower() in cfg.name.lower():
        del parts[1]
    return "_".join(parts)


def network_name(cfg: DictConfig) -> str:
    """Returns the name of the architecture."""
    name: str = cfg.net.net.get("model_name") or cfg.net.net._target_.rpartition(".")[2]
    return name


def sweep() -> str | None:
    """Returns the name of the sweep that the run is of: its directory's."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).name
