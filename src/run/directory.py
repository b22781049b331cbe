"""The directory of a run: fresh, begun, finished, or gone on with."""

__all__ = ["check_fresh", "is_finished", "open_run", "resumed"]

import os
import shlex
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from src.records.atomic import write_whole


@rank_zero_only
def check_fresh(cfg: DictConfig) -> None:
    """Refuses a run directory that is taken, unless its run is to be resumed.

    Raises:
        FileExistsError: if an earlier run is there.
    """
    if (Path(cfg.run_dir) / "config.yaml").exists() and not cfg.get("resume"):
        raise FileExistsError(
            f"expected a fresh run directory, got {cfg.run_dir} with the results of an earlier "
            f"run; choose another hydra.run.dir, or go on with it: resume={cfg.run_dir}"
        )


@rank_zero_only
def open_run(cfg: DictConfig) -> None:
    """Writes the resolved configuration into the run directory; one to resume has it."""
    path = Path(cfg.run_dir) / "config.yaml"
    if not path.exists():
        text = command() + OmegaConf.to_yaml(cfg, resolve=True)
        write_whole(path, lambda partial: partial.write_text(text))


def is_finished(cfg: DictConfig) -> bool:
    """Says so, if `resume=auto` finds that nothing is left to do in the run directory."""
    finished = cfg.resume == "auto" and (Path(cfg.run_dir) / "metrics.json").exists()
    if finished:
        Console().print(f"{cfg.run_dir} is finished", soft_wrap=True)
    return finished


def command() -> str:
    """Returns the command that began the run, as a line of comment: a resumed run keeps it."""
    if not HydraConfig.initialized():
        return ""
    job = HydraConfig.get()
    start = ["python"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        start = ["torchrun", f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"]
    words = shlex.join([*start, "-m", f"src.{job.job.name}", *job.overrides.task])
    return "# " + words.replace("\n", " ") + "\n"


def resumed(cfg: DictConfig) -> tuple[DictConfig, Path | None]:
    """Returns the configuration of the run to resume, and its last checkpoint if there is one.

    Without `resume`, the configuration comes back as it is. `resume=auto` means the run directory
    itself, so that a sweep can be started again where it was: what is not begun there begins.

    Raises:
        FileNotFoundError: if there is no run.
        FileExistsError: if it is finished.
        ValueError: if another command began it, or if anything else is asked for, which the run's
            own configuration would hide.
    """
    if cfg.resume is None:
        return cfg, None
    run_dir = Path(cfg.run_dir if cfg.resume == "auto" else cfg.resume)
    if not (run_dir / "config.yaml").is_file():
        if cfg.resume == "auto":
            return cfg, None
        raise FileNotFoundError(
            f"expected the directory of a run, got {run_dir} without a config.yaml; "
            "set resume=logs/<name>/<time>"
        )
    if (run_dir / "metrics.json").exists():
        raise FileExistsError(
            f"expected a run that was cut off, got {run_dir}, which is finished; see its "
            "metrics.json, or start a new run"
        )
    others = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
    if others and cfg.resume != "auto":
        raise ValueError(
            "expected resume= alone, as a run goes on with the configuration it began with, got "
            f"{' '.join(others)} beside it; leave that out, or start a new run"
        )
    saved = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(saved, DictConfig)
    commands = ["src.evaluate" if "checkpoint" in each else "src.train" for each in (cfg, saved)]
    if commands[0] != commands[1]:
        raise ValueError(
            f"expected a run of {commands[0]}, got {run_dir} of {commands[1]}; go on with it: "
            f"python -m {commands[1]} resume={run_dir}"
        )
    if cfg.resume != "auto":
        with suppress(OSError):  # Hydra has opened a directory for this command
            Path(cfg.run_dir).rmdir()
    saved.run_dir, saved.resume = str(run_dir), str(run_dir)
    last = run_dir / "checkpoints" / "last.ckpt"
    return saved, last if last.exists() else None
