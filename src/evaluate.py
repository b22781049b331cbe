"""Benchmark a network: one that was trained here, or one that came with its weights.

python -m src.evaluate checkpoint=logs/resnet18_cifar10/.../checkpoints/last.ckpt
python -m src.evaluate checkpoint=PATH data_dir=/elsewhere
python -m src.evaluate checkpoint=https://ADDRESS@sha256:DIGEST   fetched, checked, then read
python -m src.evaluate checkpoint=PATH selection=official       selects the block anew
python -m src.evaluate checkpoint=PATH selection=official benchmark=false   and nothing else
python -m src.evaluate experiment=resnet50_imagenet             pretrained: selects, benchmarks
python -m src.evaluate data=cifar10 net=resnet18 net.weights=FILE   somebody else's weights
python -m src.evaluate net=imagenet/swin_t list_blocks=true     shows the blocks, nothing else
"""

__all__ = ["evaluate", "main"]

import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from src.records.configs import CONF


def evaluate(cfg: DictConfig) -> None:
    """Rebuilds network and data, selects a block if need be, benchmarks in `cfg.run_dir`."""
    from src.benchmark import Benchmark
    from src.classifier import Classifier
    from src.records.console import show
    from src.report.media import log_selection
    from src.report.tables import block_list, selection_table
    from src.run.checkpoint import load_checkpoint, load_state
    from src.run.configuration import check_trained, complete, id_images, without_weights
    from src.run.directory import is_finished, resumed
    from src.run.pretrained import local_file
    from src.run.session import report
    from src.run.targets import check_installed, check_targets
    from src.run.trainer import new_trainer, seed_everything

    if is_finished(cfg):
        return
    list_only = cfg.list_blocks
    begun, _ = resumed(cfg)
    parse_overrides = OverridesParser.create().parse_overrides
    asked = [o.key_or_group for o in parse_overrides(HydraConfig.get().overrides.task)]
    checkpoint = load_checkpoint(local_file(begun.checkpoint)) if begun.checkpoint else None
    if begun is not cfg:
        cfg = begun
    elif checkpoint is not None:
        if not cfg.trust:
            named = {key.split(".")[0] for key in asked}
            check_targets({k: v for k, v in checkpoint["config"].items() if k not in named})
        cfg = complete(cfg, checkpoint["config"], asked)
    with open_dict(cfg):
        selects = any(key.split(".")[0] == "selection" for key in asked)
        cfg.reselect = cfg.get("reselect", False) or selects
    check_installed(OmegaConf.to_container(cfg, resolve=False))
    seed_everything(cfg.seed)
    if list_only:
        show(block_list(instantiate(without_weights(cfg.net))))
        with suppress(OSError):  # Hydra has opened it; one that was there before may hold files
            Path(cfg.run_dir).rmdir()
        return
    if checkpoint is None:
        check_trained(cfg)
    network = instantiate(cfg.net)
    classifier = Classifier(network, channels_last=cfg.optim.channels_last)
    scored = cfg.get("benchmark", True)
    data = instantiate(cfg.data if scored else id_images(cfg.data))
    data.check_network(network.num_classes, network.image_shape)
    if checkpoint is not None:
        load_state(classifier, checkpoint["state_dict"], cfg.checkpoint)
    benchmark = Benchmark(
        network, instantiate(cfg.detectors), data.sources, autocast=cfg.get("autocast", False)
    )
    selection = None
    if network.selected is None or cfg.reselect:
        selection = instantiate(cfg.get("selection")) or None  # selection=none is empty
    if selection is None:
        if not scored:
            raise ValueError(
                f"expected something to do, got benchmark=false and {network.selected} selected "
                "by the training; select again with selection=..., or leave benchmark=false out"
            )
        benchmark.check_selection()
    else:
        selection.check(network)

    run_dir = Path(cfg.run_dir)
    trainer = new_trainer(cfg, [selection])
    start = perf_counter()
    if selection is not None:
        trainer.validate(classifier, datamodule=data, verbose=False)
        log_selection(run_dir, trainer.loggers, trainer.global_step)
    if not scored:
        if trainer.is_global_zero:
            show(selection_table(network.norm_ratio, network.selected), f"results in {run_dir}")
        return
    benchmark.keep_in(run_dir / "benchmark")
    data.fit_on, data.tested = benchmark.fit_on, benchmark.remaining
    trainer.test(benchmark, datamodule=data, verbose=False)
    report(cfg, trainer, benchmark, data, {"benchmark": perf_counter() - start})


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Composes the configuration and runs it."""
    try:
        evaluate(cfg)
    finally:
        if loggers := sys.modules.get("src.loggers"):
            loggers.finish_wandb()


if __name__ == "__main__":
    main()
