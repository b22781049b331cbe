"""The life of a run: configuration, trainer, session, directory and checkpoints.

Names are imported when they are first used, so that a command that only prints help stays fast.
"""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.run.checkpoint import AtomicCheckpoints, load_checkpoint, load_state
    from src.run.pretrained import load_network, local_file, released_networks
    from src.run.targets import admitted, check_installed
    from src.run.trainer import new_trainer, seed_everything

__all__ = [
    "AtomicCheckpoints",
    "admitted",
    "check_installed",
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
        "admitted",
        "check_installed",
    ),
    "trainer": (
        "new_trainer",
        "seed_everything",
    ),
}

__getattr__ = exports(__name__, MODULES)
