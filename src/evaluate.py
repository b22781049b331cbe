"""Benchmark a network that was trained here, or one that comes with its weights.

python -m src.evaluate checkpoint=logs/resnet18_cifar10/.../checkpoints/last.ckpt
python -m src.evaluate checkpoint=PATH data_dir=/elsewhere
python -m src.evaluate checkpoint=https://ADDRESS@sha256:DIGEST   downloads and checks it first
python -m src.evaluate checkpoint=PATH selection=official       selects the block again
python -m src.evaluate checkpoint=PATH selection=official benchmark=false   and does no more
python -m src.evaluate experiment=resnet50_imagenet             pretrained: selects, benchmarks
python -m src.evaluate data=cifar10 net=resnet18 net.weights=FILE   weights of another project
python -m src.evaluate net=imagenet/swin_t list_blocks=true     lists the blocks and stops
"""

__all__ = ["evaluate", "main"]

import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.records.configs import CONF
from src.run.command_line import literally


def evaluate(cfg: DictConfig) -> None:
    """Rebuilds network and data, selects a block if needed, benchmarks in `cfg.run_dir`."""
    from src.run.asked import configured
    from src.run.configuration import check_trained
    from src.run.directory import is_finished
    from src.run.parts import build
    from src.run.session import report, report_selection, run_benchmark, running
    from src.run.targets import check_installed
    from src.run.trainer import new_trainer, seed_everything

    if is_finished(cfg):
        return
    cfg, state = configured(cfg)
    check_installed(OmegaConf.to_container(cfg, resolve=False))
    seed_everything(cfg.seed)
    if cfg.list_blocks:
        list_blocks(cfg)
        return
    if state is None:
        check_trained(cfg)
    classifier, data, benchmark, selection = parts = build(cfg, state=state, trains=False)
    if selection is None and not cfg.benchmark:
        raise ValueError(
            "expected something to do, got benchmark=false and a network whose block is selected "
            f"({classifier.network.selected}); select again with selection=..., or leave "
            "benchmark=false out"
        )
    trainer = new_trainer(cfg, parts, trains=False)

    with running(cfg):
        start = perf_counter()
        if selection is not None:
            trainer.validate(classifier, datamodule=data, verbose=False)
            report_selection(cfg, trainer, classifier.network)
        if cfg.benchmark:
            run_benchmark(cfg, trainer, benchmark, data)
            report(cfg, trainer, benchmark, data, {"benchmark": perf_counter() - start})


def list_blocks(cfg: DictConfig) -> None:
    """Prints the blocks of the network, and leaves no run directory behind."""
    from src.records.console import show
    from src.report.tables import block_list
    from src.run.configuration import without_weights

    show(block_list(instantiate(without_weights(cfg.net))))
    with suppress(OSError):  # Hydra has created it; one that existed before may hold files
        Path(cfg.run_dir).rmdir()


@literally
@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Composes the configuration and runs it."""
    try:
        evaluate(cfg)
    finally:
        if loggers := sys.modules.get("src.loggers"):
            loggers.finish()


if __name__ == "__main__":
    main()
