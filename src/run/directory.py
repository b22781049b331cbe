"""The directory of a run: fresh, begun, finished or resumed, and owned by one process."""

__all__ = ["claimed", "is_finished", "resumed"]

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from src.benchmark import KEPT
from src.records.atomic import PARTIAL, held, write_whole
from src.records.console import say
from src.records.literal import override
from src.records.run_files import CONFIG_FILE, read_config
from src.run.checkpoint import check_progress, load_checkpoint
from src.run.command_line import repeated
from src.run.configuration import with_defaults
from src.run.places import check_places
from src.run.targets import admitted, nodes
from src.run.upgrade import upgraded


@contextmanager
def claimed(cfg: DictConfig) -> Iterator[None]:
    """Owns the run directory: of two commands that want it, one is refused before any work.

    A new run claims a directory by creating its `config.yaml`, which only one can do. While a
    process works on a run it also holds that file. A new run that fails before it leaves anything
    else gives the directory back.

    Raises:
        FileExistsError: If the directory holds anything, unless its run is to be resumed; or if
            another process works on that run, or has finished it.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        yield
        return
    path = Path(cfg.run_dir) / "config.yaml"
    is_new = cfg.resume in (None, "auto")
    if is_new:
        _begin(path, _heading() + OmegaConf.to_yaml(cfg, resolve=True))
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path))
        except BlockingIOError:
            raise FileExistsError(
                f"expected a run that no process works on, got {path.parent}, on which another "
                "one works; wait until it ends"
            ) from None
        if not is_new:
            _check_unfinished(path.parent)
            for left in [*path.parent.glob(f"{PARTIAL}*"), *path.parent.glob(f"*/{PARTIAL}*")]:
                rmtree(left, ignore_errors=True)  # a write that was cut off
        try:
            yield
        except Exception:
            if is_new and _found(path.parent) == [path.name]:
                path.unlink()
            raise


def _heading() -> str:
    """Returns the command that started the run as a comment line; a resumed run keeps it."""
    text = repeated()
    return f"# {text}\n" if text else ""


def _begin(path: Path, text: str) -> None:
    """Creates the configuration of a new run, if nothing is in its directory."""
    found = _found(path.parent)
    try:
        if not found:
            write_whole(path, lambda partial: partial.write_text(text), may_replace=False)
            return
    except FileExistsError:  # another one was faster
        found = [path.name]
    if path.name in found:
        what, way = (
            "the results of an earlier run",
            f", or resume that run: {override('resume', path.parent)}",
        )
    else:
        what, way = f"other files ({', '.join(found[:3])})", ""
    raise FileExistsError(
        f"expected a fresh run directory, got {path.parent} with {what}; choose another "
        f"hydra.run.dir{way}"
    )


def _found(run_dir: Path) -> list[str]:
    """Returns what is in a run directory beside what Hydra wrote and what was cut off."""
    own: set[str] = set()
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        own = {str(hydra.output_subdir), f"{hydra.job.name}.log"}
    names = [path.name for path in run_dir.iterdir()] if run_dir.exists() else []
    return sorted(each for each in names if each not in own and not each.startswith(PARTIAL))


def has_finished(run_dir: Path) -> bool:
    """Whether a run has its results, and its report was not interrupted after them."""
    interrupted = any((run_dir / "benchmark" / name).exists() for name in KEPT)
    return (run_dir / "metrics.json").exists() and not interrupted


def is_finished(cfg: DictConfig) -> bool:
    """Whether `resume=auto` finds a finished run, which it then reports."""
    finished = cfg.resume == "auto" and has_finished(Path(cfg.run_dir))
    if finished:
        say(f"{cfg.run_dir} is finished")
    return finished


def _check_unfinished(run_dir: Path) -> None:
    if has_finished(run_dir):
        raise FileExistsError(
            f"expected an interrupted run, got {run_dir}, which is finished; see its "
            "metrics.json, or start a new run"
        )


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
    _check_unfinished(run_dir)
    saved = _saved(cfg, run_dir)
    if cfg.resume != "auto":
        with suppress(OSError):  # Hydra has created a directory for this command
            Path(cfg.run_dir).rmdir()
    saved.run_dir, saved.resume = str(run_dir), str(run_dir)
    check_places(saved, cfg, run_dir, trust=cfg.trust)
    last = run_dir / "checkpoints" / "last.ckpt"
    if not last.exists():
        return saved, None
    check_progress(load_checkpoint(last), last)  # refuses what Lightning would find out late
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
    written, _ = read_config(run_dir / CONFIG_FILE)
    kept = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(written)))
    if missing := [group for group in ("net", "data", "trainer") if not kept.get(group)]:
        raise ValueError(
            f"expected the config.yaml of a run, got {run_dir / CONFIG_FILE} without "
            f"{', '.join(missing)}; restore it, or start a new run"
        )
    own = [node for _, node in nodes(OmegaConf.to_container(cfg)) if isinstance(node, dict)]
    known = {str(node.get("_target_")) for node in own} if cfg.resume == "auto" else ()
    kept = moved(upgraded(kept), run_dir)
    saved = OmegaConf.create(admitted(kept, run_dir, known=known, trust=cfg.trust))
    commands = ["src.evaluate" if "checkpoint" in each else "src.train" for each in (cfg, saved)]
    if commands[0] != commands[1]:
        raise ValueError(
            f"expected a run of {commands[0]}, got {run_dir} of {commands[1]}; resume it with: "
            f"python -m {commands[1]} {override('resume', run_dir)}"
        )
    return with_defaults(saved, cfg)


def moved(config: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Returns the configuration of a run with all paths inside its directory where that is now.

    Args:
        config: Plain containers; `run_dir` is where the run began.
        run_dir: Where it is now.
    """
    begun = str(config.get("run_dir") or run_dir)
    inside = re.compile(rf"(^|:///){re.escape(begun)}(?=/|$)")  # also in an address: sqlite:///

    def follow(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: follow(value) for key, value in node.items()}
        if isinstance(node, list):
            return [follow(value) for value in node]
        if isinstance(node, str):
            return inside.sub(lambda found: found[1] + str(run_dir), node)
        return node

    return cast(dict[str, Any], follow(config))
