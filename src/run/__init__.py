"""The life of a run: configuration, trainer, session, directory and checkpoints.

Names are imported when they are first used, so that a command that only prints help stays fast.
"""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.run.checkpoint import AtomicCheckpoints, load_checkpoint, load_state
    from src.run.pretrained import load_network, local_file, released_networks
    from src.run.targets import check_installed, check_targets
    from src.run.trainer import new_trainer, seed_everything

__all__ = [
    "AtomicCheckpoints",
    "check_installed",
    "check_targets",
    "load_checkpoint",
    "load_network",
    "load_state",
    "local_file",
    "new_trainer",
    "released_networks",
    "seed_everything",
]

MODULES = {
    "checkpoint": (
        "AtomicCheckpoints",
        "load_checkpoint",
        "load_state",
    ),
    "pretrained": (
        "load_network",
        "local_file",
        "released_networks",
    ),
    "targets": (
        "check_installed",
        "check_targets",
    ),
    "trainer": (
        "new_trainer",
        "seed_everything",
    ),
}

__getattr__ = exports(__name__, MODULES)
