"""What a configuration names to be called: is it there, and may a checkpoint name it?"""

__all__ = ["check_installed", "check_targets"]

from importlib.util import find_spec
from typing import Any

import src.loggers as loggers

# package -> extra that installs it; a logger declares its own
EXTRAS = {"timm": "timm", "datasets": "hf", "pytorch_ood": "pytorch-ood"}

# what a checkpoint may name: constructors that do nothing but construct
TRUSTED = (
    "src.",
    "torchvision.models.",
    "timm.create_model",
    "torch.nn.",
    "torch.optim.",
    "lightning.Trainer",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.strategies.",
    "datetime.timedelta",
)


def packages_of(target: str) -> dict[str, str | None]:
    """Returns the packages that a target imports, each with the extra that installs it."""
    first = target.partition(".")[0]
    logger = getattr(loggers, target.removeprefix("src.loggers."), None)
    return {first: EXTRAS.get(first)} | getattr(logger, "packages", {})


def check_installed(config: Any, path: str = "") -> None:
    """Refuses a configuration that names a package which is not there.

    Args:
        config: Plain containers.
        path: Of the configuration, with a dot behind it.

    Raises:
        ModuleNotFoundError: If a `_target_` is in a package that is not installed.
    """
    if isinstance(config, list):
        config = dict(enumerate(config))
    if isinstance(config, dict):
        target = str(config.get("_target_", "src."))
        for package, extra in packages_of(target).items():
            if find_spec(package) is None:
                how = f"pip install -e .[{extra}]" if extra else "correct it"
                raise ModuleNotFoundError(
                    f"expected an installed package in {path}_target_, got {target}, but there is "
                    f"no {package}; {how}"
                )
        for key, value in config.items():
            check_installed(value, f"{path}{key}.")


def check_targets(config: Any, path: str = "") -> None:
    """Refuses a checkpoint's configuration that would call what no training of ours calls.

    Raises:
        ValueError: If a `_target_` is not of this project, torchvision's networks, optimizers,
            layers or Lightning's trainer.
    """
    if isinstance(config, list):
        config = dict(enumerate(config))
    if isinstance(config, dict):
        target = config.get("_target_", TRUSTED[0])
        if not str(target).startswith(TRUSTED):
            raise ValueError(
                f"expected a checkpoint that builds what this project trains, got {path}_target_: "
                f"{target}; if you trust it, name the group on the command line, such as "
                "net=<your config>, or set trust=true"
            )
        for key, value in config.items():
            check_targets(value, f"{path}{key}.")
