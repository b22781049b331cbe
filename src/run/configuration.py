"""The configuration of a run: what the command line names, what a checkpoint adds, its names."""

__all__ = [
    "OF_THIS_RUN",
    "asked_keys",
    "check_trained",
    "complete",
    "network_name",
    "run_name",
    "sweep",
    "with_defaults",
    "without_ood",
    "without_weights",
]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

# what an evaluation never takes from the training
OF_THIS_RUN = ("benchmark", "logger", "job_type", "group", "run_dir", "resume", "checkpoint")


def asked_keys() -> list[str]:
    """Returns the keys and groups that the command line names."""
    parser = OverridesParser.create()
    return [o.key_or_group for o in parser.parse_overrides(HydraConfig.get().overrides.task)]


def complete(cfg: DictConfig, trained: dict[str, Any], asked: Sequence[str]) -> DictConfig:
    """Returns the configuration of the training, changed where the command line says so.

    Args:
        cfg: Configuration composed for this command.
        trained: Configuration of the training.
        asked: Keys and groups that the command line names.

    Raises:
        ValueError: If the command line names an experiment, which would be another training.
    """
    if other := {"experiment", "debug"} & set(asked):
        raise ValueError(
            f"expected a checkpoint or an experiment, got checkpoint and {', '.join(other)}; "
            "choose single groups beside a checkpoint: data=, selection=, detectors=, trainer="
        )
    complete = OmegaConf.create(trained)
    with open_dict(complete):
        for key in (*asked, *OF_THIS_RUN):
            group, _, last = key.rpartition(".")
            if last in (OmegaConf.select(cfg, group) if group else cfg):
                OmegaConf.update(complete, key, OmegaConf.select(cfg, key), merge=False)
            else:  # removed with a tilde, or a group that is empty
                (OmegaConf.select(complete, group) if group else complete).pop(last, None)
        complete.net = without_weights(complete.net)  # those of the checkpoint follow
    return with_defaults(complete, cfg)


def with_defaults(saved: DictConfig, cfg: DictConfig) -> DictConfig:
    """Returns a saved configuration with the plain options that it does not have yet.

    Args:
        saved: Configuration of another command or an earlier version.
        cfg: Configuration composed for this command; its values are the defaults.
    """
    with open_dict(saved):
        for key in cfg:
            if key not in saved and not OmegaConf.is_config(cfg._get_node(key)):
                saved[key] = cfg[key]
    return saved


def check_trained(cfg: DictConfig) -> None:
    """Refuses to benchmark a network with random weights.

    Raises:
        ValueError: If a network of this project or of torchvision is to be built without weights.
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
        if "pretrained" in net.net:  # an option of timm
            net.net.pretrained = False
    return net


def without_ood(data: DictConfig) -> DictConfig:
    """Returns the configuration of the images without OOD sets, for a run that scores none."""
    data = data.copy()
    with open_dict(data):
        data.ood, data.groups, data.match_codec = {}, {}, False
    return data


def run_name(cfg: DictConfig) -> str:
    """Returns a name that tells a run from the others of a sweep over networks and seeds."""
    parts = [cfg.name, network_name(cfg), str(cfg.seed)]
    if parts[1].lower() in cfg.name.lower():
        del parts[1]
    return "_".join(parts)


def network_name(cfg: DictConfig) -> str:
    """Returns the name of the architecture."""
    name: str = cfg.net.net.get("model_name") or cfg.net.net._target_.rpartition(".")[2]
    return name


def sweep() -> str | None:
    """Returns the name of the sweep's directory, or None outside a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).name
