"""The directory of a run: fresh, begun, finished or resumed."""

__all__ = ["check_fresh", "is_finished", "open_run", "resumed"]

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from src.records.atomic import write_whole
from src.records.console import say
from src.run.checkpoint import load_checkpoint
from src.run.configuration import with_defaults
from src.run.places import check_places
from src.run.targets import admitted, nodes
from src.run.upgrade import upgraded


@rank_zero_only
def check_fresh(cfg: DictConfig) -> None:
    """Refuses a run directory that is taken, unless its run is to be resumed.

    Raises:
        FileExistsError: If an earlier run is there.
    """
    if (Path(cfg.run_dir) / "config.yaml").exists() and not cfg.resume:
        raise FileExistsError(
            f"expected a fresh run directory, got {cfg.run_dir} with the results of an earlier "
            f"run; choose another hydra.run.dir, or resume that run: resume={cfg.run_dir}"
        )


@rank_zero_only
def open_run(cfg: DictConfig) -> None:
    """Writes the resolved configuration into the run directory, unless a resumed run has it."""
    path = Path(cfg.run_dir) / "config.yaml"
    if not path.exists():
        text = command() + OmegaConf.to_yaml(cfg, resolve=True)
        write_whole(path, lambda partial: partial.write_text(text))


def is_finished(cfg: DictConfig) -> bool:
    """Whether `resume=auto` finds a finished run, which it then reports."""
    finished = cfg.resume == "auto" and (Path(cfg.run_dir) / "metrics.json").exists()
    if finished:
        say(f"{cfg.run_dir} is finished")
    return finished


def command() -> str:
    """Returns the command that started the run as a comment line; a resumed run keeps it."""
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

    Without `resume`, it returns `cfg` itself. `resume=auto` refers to the run directory of the
    command, so that the same command resumes a sweep: runs that have not begun begin.

    Raises:
        FileNotFoundError: If there is no run.
        FileExistsError: If it is finished.
        ValueError: If another command began it, if the command line sets anything else, which
            the configuration of the run would hide, or if its checkpoint cannot be read.
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
            f"expected an interrupted run, got {run_dir}, which is finished; see its "
            "metrics.json, or start a new run"
        )
    saved = _saved(cfg, run_dir)
    if cfg.resume != "auto":
        with suppress(OSError):  # Hydra has created a directory for this command
            Path(cfg.run_dir).rmdir()
    saved.run_dir, saved.resume = str(run_dir), str(run_dir)
    check_places(saved, cfg, run_dir, trust=cfg.trust)
    last = run_dir / "checkpoints" / "last.ckpt"
    if not last.exists():
        return saved, None
    load_checkpoint(last)  # refuses what Lightning would find out late
    return saved, last


def _saved(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """Returns the configuration with which the run began, checked against the command."""
    ways = ("resume=", "trust=")
    others = [o for o in HydraConfig.get().overrides.task if not o.startswith(ways)]
    if others and cfg.resume != "auto":
        raise ValueError(
            "expected resume= alone, as a run resumes with the configuration it began with, got "
            f"{' '.join(others)} beside it; leave that out, or start a new run"
        )
    kept = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    own = [node for _, node in nodes(OmegaConf.to_container(cfg)) if isinstance(node, dict)]
    known = {str(node.get("_target_")) for node in own} if cfg.resume == "auto" else ()
    kept = upgraded(cast(dict[str, Any], kept))
    saved = OmegaConf.create(admitted(kept, run_dir, known=known, trust=cfg.trust))
    commands = ["src.evaluate" if "checkpoint" in each else "src.train" for each in (cfg, saved)]
    if commands[0] != commands[1]:
        raise ValueError(
            f"expected a run of {commands[0]}, got {run_dir} of {commands[1]}; resume it with: "
            f"python -m {commands[1]} resume={run_dir}"
        )
    return with_defaults(saved, cfg)
