"""What a command that works on a checkpoint was asked to do."""

__all__ = ["configured"]

from typing import Any

from omegaconf import DictConfig, open_dict

from src.run.checkpoint import load_checkpoint
from src.run.configuration import OF_THIS_RUN, asked_keys, complete
from src.run.directory import resumed
from src.run.places import check_places
from src.run.pretrained import local_file
from src.run.targets import admitted


def configured(cfg: DictConfig) -> tuple[DictConfig, dict[str, Any] | None]:
    """Returns the configuration of the command, and the state dict of its checkpoint if any."""
    begun, _ = resumed(cfg)
    checkpoint = load_checkpoint(local_file(begun.checkpoint)) if begun.checkpoint else None
    state = checkpoint and checkpoint["state_dict"]
    if begun is not cfg:
        return begun, state
    asked = asked_keys()
    if checkpoint is not None:
        replaced = {*asked, *OF_THIS_RUN}
        trained = checkpoint["config"]
        trained = admitted(trained, cfg.checkpoint, replaced=replaced, trust=cfg.trust)
        for group in ("data", "detectors", "trainer"):
            has = trained.get(group) or {}
            if group not in asked and (
                not has or (group != "detectors" and "_target_" not in has)
            ):
                raise ValueError(
                    f"expected a checkpoint with its {group}, got {cfg.checkpoint} without; name "
                    f"it: {group}=..."
                )
        own, cfg = cfg, complete(cfg, trained, asked)
        check_places(cfg, own, own.checkpoint, trust=own.trust)
    with open_dict(cfg):
        cfg.reselect |= any(key.split(".")[0] == "selection" for key in asked)
    return cfg, state
