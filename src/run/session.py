"""A run in progress: owned, opened when its images are ready, and reported at its end."""

__all__ = [
    "Opening",
    "after_fit",
    "check_saved",
    "report",
    "report_selection",
    "run_benchmark",
    "running",
]

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, cast

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from src.benchmark import KEPT, Benchmark
from src.data import ImageData
from src.loggers import Dispensable
from src.network import Network
from src.records.console import say, show
from src.records.git_state import git_state
from src.records.literal import override
from src.records.selection import CRITERIA
from src.report.media import log_selection
from src.report.results import FinishedRun, write_report
from src.report.tables import block_table, result_table, selection_table
from src.run.checkpoint import AtomicCheckpoints
from src.run.configuration import network_name, run_name, sweep
from src.run.directory import claimed


@contextmanager
def running(cfg: DictConfig) -> Iterator[None]:
    """Owns the run directory inside, and names its run; on a signal, says how to resume it.

    Raises:
        FileExistsError: If the directory is taken.
        SystemExit: After SIGTERM or SIGINT, with the exit code of that signal.
    """
    with open_dict(cfg):
        cfg.group = cfg.group or sweep() or cfg.name
        cfg.run_name = cfg.run_name or run_name(cfg)
    with claimed(cfg), _ends_on(signal.SIGTERM):
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            asked = KeyboardInterrupt in (type(error), type(error.__context__))
            job = "src.evaluate" if "checkpoint" in cfg else "src.train"
            rank_zero_only(say)(
                f"interrupted; to resume: python -m {job} {override('resume', cfg.run_dir)}"
            )
            raise SystemExit(128 + (signal.SIGINT if asked else signal.SIGTERM)) from None


@contextmanager
def _ends_on(number: signal.Signals) -> Iterator[None]:
    """Ends the process on a signal as an error would, so that what is open is closed.

    Lightning alone would go on to the next batch, and end with exit code 0.
    """

    def end(*_: object) -> None:
        raise SystemExit(128 + number)

    if current_thread() is not main_thread():  # only the main thread hears signals
        yield
        return
    before = signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, before)


class Opening(L.Callback):
    """Starts the loggers once the images are decoded: a run refused before then leaves no file.

    Lightning calls `setup` of the data before that of the callbacks.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.opened = cfg, False

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Starts the loggers, before the first stage."""
        if self.opened:
            return
        trainer.loggers = list(instantiate(self.cfg.logger).values())
        config = cast(dict[str, Any], OmegaConf.to_container(self.cfg, resolve=True))
        config["git"] = git_state()
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # config.yaml is in the same directory
                logger.log_hyperparams(config)
        self.opened = True


@rank_zero_only
def after_fit(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Logs the selection and the best checkpoint, whether or not a benchmark follows."""
    log_selection(Path(cfg.run_dir), trainer.loggers, trainer.global_step)
    best = cast(ModelCheckpoint, trainer.checkpoint_callback)
    path = Path(best.best_model_path)
    if best.best_model_score is not None and path.is_file():
        for logger in trainer.loggers:
            if isinstance(logger, Dispensable):
                logger.log_checkpoint(path, {str(best.monitor): float(best.best_model_score)})


@rank_zero_only
def report_selection(cfg: DictConfig, trainer: L.Trainer, network: Network) -> None:
    """Logs the selection of an evaluation; if no benchmark follows, also shows it."""
    run_dir = Path(cfg.run_dir)
    log_selection(run_dir, trainer.loggers, trainer.global_step)
    if not cfg.benchmark:
        criterion = CRITERIA[network.criterion], network.measured[network.criterion]
        table = selection_table(network.norm_ratio, network.selected, *criterion)
        show(table, f"results in {run_dir}")


def run_benchmark(
    cfg: DictConfig, trainer: L.Trainer, benchmark: Benchmark, data: ImageData
) -> None:
    """Runs the benchmark; what an interrupted one left in the run directory is not repeated."""
    settings = OmegaConf.to_yaml(cfg.detectors, resolve=True)
    benchmark.run(trainer, data, keep_in=Path(cfg.run_dir) / "benchmark", settings=settings)


def report(
    cfg: DictConfig,
    trainer: L.Trainer,
    benchmark: Benchmark,
    data: ImageData,
    seconds: Mapping[str, float],
) -> None:
    """Writes the results of a finished benchmark and shows them, on one process.

    Raises:
        OSError: If there was no room for all of them; they are shown first.
    """
    if not trainer.is_global_zero:
        with suppress(OSError):  # of torchrun: one that started a second later has its own folder
            Path(cfg.run_dir).rmdir()
        return
    run_dir = Path(cfg.run_dir)
    checkpoints = cast(AtomicCheckpoints, trainer.strategy.checkpoint_io)
    scores, limit = benchmark.scores, trainer.limit_test_batches
    is_whole = isinstance(limit, float) and limit == 1.0  # not the integer 1: one batch
    run = FinishedRun(
        run_dir=run_dir,
        scores=scores,
        experiment=cfg.name,
        network=network_name(cfg),
        selected_block=benchmark.network.selected,
        norm_ratio=benchmark.network.norm_ratio,
        block_weights=benchmark.block_weights,
        forward_passes=benchmark.forward_passes,
        seconds=seconds,
        data=data.facts(scores.counts if is_whole else None),
        pictures=data.pictures,
        step=trainer.global_step,
        is_complete=checkpoints.complete(),
        criterion=benchmark.network.criterion,
        value=benchmark.network.measured.get(benchmark.network.criterion),
    )
    metrics = write_report(run, trainer.loggers)
    show(result_table(metrics), block_table(metrics), f"results in {run_dir}")
    if not all((run_dir / name).exists() for name in ("metrics.json", "report.html")):
        raise no_room("results", run_dir)
    with suppress(OSError):  # a folder with files of the user stays
        for name in KEPT:
            (run_dir / "benchmark" / name).unlink(missing_ok=True)
        (run_dir / "benchmark").rmdir()


@rank_zero_only
def check_saved(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Refuses to end a training whose last checkpoint is not on disk.

    Raises:
        OSError: If there was no room for it.
    """
    if not cast(AtomicCheckpoints, trainer.strategy.checkpoint_io).complete():
        raise no_room("checkpoints", cfg.run_dir)


def no_room(what: str, run_dir: str | Path) -> OSError:
    """Returns the error for a full disk."""
    return OSError(
        f"expected room for the {what} in {run_dir}, got none; free some space, then resume "
        f"the run: {override('resume', run_dir)}"
    )
