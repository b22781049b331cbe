"""Train a classifier, select its block, benchmark it.

python -m src.train                                         quickstart: less than a minute on a CPU
python -m src.train experiment=resnet18_cifar10             the paper's first row
python -m src.train -m experiment=resnet18_cifar10,vgg11_cifar10 seed=0,1,2
python -m src.train -m experiment=cifar10_brief sweep=architectures     a sweep by its name
torchrun --nproc-per-node=4 -m src.train experiment=resnet18_cifar10 trainer=ddp
python -m src.train gate=true                               also makes a file that decides
python -m src.train resume=logs/resnet18_cifar10/...        resumes an interrupted run
python -m src.train -m seed=0,1,2 hydra.sweep.dir=DIR resume=auto      resumes a sweep in DIR
"""

__all__ = ["main", "train"]

import sys
from time import perf_counter

import hydra
from omegaconf import DictConfig, OmegaConf

from src.records.configs import CONF
from src.run.command_line import literally


def train(cfg: DictConfig) -> None:
    """Runs one experiment and leaves its results in `cfg.run_dir`."""
    from src.deploy import planned, write_gate
    from src.run.checkpoint import restoring
    from src.run.directory import is_finished, resumed
    from src.run.parts import build
    from src.run.session import after_fit, check_saved, report, run_benchmark, running
    from src.run.targets import check_installed
    from src.run.trainer import new_trainer, seed_everything, settle

    if is_finished(cfg):
        return
    cfg, checkpoint = resumed(cfg)
    check_installed(OmegaConf.to_container(cfg, resolve=False))
    seed_everything(cfg.seed)
    gate = planned(cfg) if cfg.gate else None
    classifier, data, benchmark, _ = parts = build(cfg, trains=True)
    trainer = new_trainer(cfg, parts, trains=True)

    with running(cfg):
        start = perf_counter()
        with restoring(checkpoint):
            trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        settle(trainer, parts)
        trained = perf_counter()
        after_fit(cfg, trainer)
        if cfg.benchmark:
            run_benchmark(cfg, trainer, benchmark, data)
        seconds = {"train": trained - start, "benchmark": perf_counter() - trained}
        if gate is not None:
            write_gate(cfg, gate, classifier.network, data, trainer)
        if cfg.benchmark:
            report(cfg, trainer, benchmark, data, seconds)
        else:
            check_saved(cfg, trainer)


@literally
@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> None:
    """Composes the configuration and runs it."""
    try:
        train(cfg)
    finally:
        if loggers := sys.modules.get("src.loggers"):
            loggers.finish()


if __name__ == "__main__":
    main()
