"""Train a classifier, select its block, benchmark it.

python -m src.train                                         quickstart: about a minute on a CPU
python -m src.train experiment=resnet18_cifar10             the paper's first row
python -m src.train -m experiment=resnet18_cifar10,vgg11_cifar10 seed=0,1,2
python -m src.train -m experiment=cifar10_brief sweep=architectures     a sweep by its name
torchrun --nproc-per-node=4 -m src.train experiment=resnet18_cifar10 trainer=ddp
python -m src.train resume=logs/resnet18_cifar10/...        goes on with a run that was cut off
python -m src.train -m seed=0,1,2 hydra.sweep.dir=DIR resume=auto      goes on with a sweep in DIR
"""

__all__ = ["main", "train"]

import sys
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.records.configs import CONF


def train(cfg: DictConfig) -> None:
    """Runs one experiment and leaves its results in `cfg.run_dir`."""
    from src.benchmark import Benchmark
    from src.classifier import Classifier
    from src.run.checkpoint import load_checkpoint
    from src.run.configuration import id_images
    from src.run.directory import is_finished, resumed
    from src.run.session import after_fit, check_saved, report
    from src.run.targets import check_installed
    from src.run.trainer import callbacks, new_trainer, seed_everything

    if is_finished(cfg):
        return
    cfg, checkpoint = resumed(cfg)
    if checkpoint is not None:
        load_checkpoint(checkpoint)  # Lightning reads it late, and any format
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    check_installed(config)
    seed_everything(cfg.seed)
    network = instantiate(cfg.net)
    scored = cfg.get("benchmark", True)
    data = instantiate(cfg.data if scored else id_images(cfg.data))
    data.check_network(network.num_classes, network.image_shape)
    benchmark = Benchmark(network, instantiate(cfg.detectors), data.sources)
    selection = instantiate(cfg.get("selection")) or None  # selection=none is empty
    if selection is None:
        benchmark.check_selection()
    else:
        selection.check(network)
    classifier = Classifier(network, **instantiate(cfg.optim), config=config)

    trainer = new_trainer(cfg, [selection, *callbacks(cfg)])
    start = perf_counter()
    trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    trained = perf_counter()
    after_fit(cfg, trainer)
    if not scored:
        check_saved(cfg, trainer)
        return
    benchmark.keep_in(Path(cfg.run_dir) / "benchmark")
    data.fit_on, data.tested = benchmark.fit_on, benchmark.remaining
    trainer.test(benchmark, datamodule=data, verbose=False)
    seconds = {"train": trained - start, "benchmark": perf_counter() - trained}
    report(cfg, trainer, benchmark, data, seconds)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> None:
    """Composes the configuration and runs it."""
    try:
        train(cfg)
    finally:
        if loggers := sys.modules.get("src.loggers"):
            loggers.finish_wandb()


if __name__ == "__main__":
    main()
