"""The `_target_`s of a configuration: are they installed, and may a checkpoint name them?"""

__all__ = ["check_installed", "check_targets"]

from importlib.util import find_spec
from typing import Any

# package -> extra
EXTRAS = {
    "timm": "timm",
    "datasets": "hf",
    "pytorch_ood": "pytorch-ood",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "sqlalchemy": "mlflow",
    "alembic": "mlflow",
}
# packages that a target of this project needs beyond its dependencies
BEHIND = {
    "src.loggers.TensorBoardLogger": ("tensorboard",),
    "src.loggers.mlflow_logger": ("mlflow", "sqlalchemy", "alembic"),
}

# what a checkpoint may name: constructors without side effects
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


def check_installed(config: Any, path: str = "") -> None:
    """Refuses a configuration that names a package which is not installed.

    Args:
        config: Plain containers.
        path: Path of the node within the configuration, followed by a dot.

    Raises:
        ModuleNotFoundError: If a `_target_` is in a package that is not installed.
    """
    if isinstance(config, list):
        config = dict(enumerate(config))
    if isinstance(config, dict):
        target = str(config.get("_target_", "src."))
        for package in (target.partition(".")[0], *BEHIND.get(target, ())):
            if find_spec(package) is None:
                how = f"pip install -e .[{EXTRAS[package]}]" if package in EXTRAS else "correct it"
                raise ModuleNotFoundError(
                    f"expected an installed package in {path}_target_, got {target}, but there is "
                    f"no {package}; {how}"
                )
        for key, value in config.items():
            check_installed(value, f"{path}{key}.")


def check_targets(config: Any, path: str = "") -> None:
    """Refuses the configuration of a checkpoint that calls what no training here would call.

    Raises:
        ValueError: If a `_target_` is outside this project, torchvision's networks, torch's layers
            and optimizers, and Lightning's trainer.
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
