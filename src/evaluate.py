"""Benchmark a trained classifier, from its checkpoint alone.

python -m src.evaluate checkpoint=logs/resnet18_cifar10/.../checkpoints/last.ckpt
python -m src.evaluate checkpoint=PATH data_dir=/elsewhere
python -m src.evaluate checkpoint=PATH selection=official      selects the block anew
"""

__all__ = ["evaluate", "main"]

import sys
from pathlib import Path
from pickle import UnpicklingError
from time import perf_counter
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

GROUPS = ("data", "selection", "detectors", "trainer", "logger")


def evaluate(cfg: DictConfig) -> None:
    """Rebuilds network and data of a checkpoint, runs the benchmark anew in `cfg.run_dir`."""
    import lightning as L

    from src.benchmark import Benchmark
    from src.classifier import Classifier
    from src.run import new_trainer, report

    checkpoint = load_checkpoint(Path(cfg.checkpoint))
    select_anew = bool(cfg.get("selection"))  # selection=none is empty
    cfg = complete(cfg, checkpoint["config"])
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    network = instantiate(cfg.net)
    classifier = Classifier(network, channels_last=cfg.optim.channels_last)
    data = instantiate(cfg.data)
    data.check_classes(network.num_classes)
    classifier.load_state_dict(checkpoint["state_dict"])
    benchmark = Benchmark(network, instantiate(cfg.detectors), data.sources)
    data.fit_first = benchmark.fits
    select_anew |= benchmark.needs_selection
    selection = (instantiate(cfg.get("selection")) or None) if select_anew else None
    if selection is None:
        benchmark.check_selection()
    else:
        selection.check(network)

    trainer = new_trainer(cfg, [selection])
    start = perf_counter()
    if selection is not None:
        trainer.validate(classifier, datamodule=data, verbose=False)
    trainer.test(benchmark, datamodule=data, verbose=False)
    report(cfg, trainer, benchmark, {"benchmark": perf_counter() - start})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the checkpoint of a training, read without running any code from it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a checkpoint of `src.train`.
    """
    import torch

    if not path.is_file():
        raise FileNotFoundError(
            f"expected a checkpoint, got no file at {path}; set checkpoint=..."
        )
    checkpoint: dict[str, Any] | None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError):  # torch advises to trust the file instead
        checkpoint = None
    if not isinstance(checkpoint, dict) or not checkpoint.get("config"):
        raise ValueError(
            f"expected a checkpoint of src.train, which holds its configuration, got {path}, "
            "which is none or is cut short; train with src.train"
        )
    return checkpoint


def complete(cfg: DictConfig, trained: dict[str, Any]) -> DictConfig:
    """Returns the configuration of the training with what was asked for now in its place.

    A group that was chosen anew replaces the old one; single keys change only themselves.
    """
    complete = OmegaConf.create(trained)
    choices = HydraConfig.get().runtime.choices
    with open_dict(complete):
        for group in GROUPS:
            if choices.get(group) is not None:
                complete[group] = cfg.get(group)
        return OmegaConf.merge(complete, {k: v for k, v in cfg.items() if v is not None})  # type: ignore[return-value]


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Composes the configuration and runs it."""
    try:
        evaluate(cfg)
    finally:
        if wandb := sys.modules.get("wandb"):
            wandb.finish()  # so that the next job of a sweep starts a run of its own


if __name__ == "__main__":
    main()
