"""Make one file that decides, image by image, whether an image is out-of-distribution.

python -m src.deploy checkpoint=logs/quickstart/.../checkpoints/last.ckpt
python -m src.deploy checkpoint=PATH detector=energy alpha=0.01   another detector, fewer alarms
python -m src.deploy checkpoint=PATH test=true             tells, too, what is found of OOD sets
python -m src.deploy checkpoint=PATH by_class=true         promises alpha for each predicted class
python -m src.deploy checkpoint=PATH format=[onnx,pt2]     exports the gate, too, and compares
python -m src.deploy export=logs/.../gate.pt format=onnx   exports a gate without data
"""

__all__ = ["deploy", "export", "main", "planned", "write_exports", "write_gate"]

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from src.records.configs import CONF
from src.run.command_line import literally

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor

    from src.data import ImageData
    from src.gate import Gate
    from src.network import Network

log = logging.getLogger(__name__)


def deploy(cfg: DictConfig) -> None:
    """Rebuilds network and data, fits and calibrates the detector, and writes the gate.

    With `export`, a gate that is there is exported instead.
    """
    from src.run.asked import configured
    from src.run.configuration import asked_keys, check_trained
    from src.run.parts import build
    from src.run.rebuild import detector_of
    from src.run.session import report_selection, running
    from src.run.targets import check_installed
    from src.run.trainer import new_trainer, seed_everything

    if cfg.format or cfg.export:
        from src.gate.export import asked_formats

        cfg.format = list(asked_formats(cfg.format or ()))
    if cfg.export:
        export(cfg)
        return
    own = cfg
    cfg, state = configured(cfg)
    seed_everything(cfg.seed)
    if state is None:
        check_trained(cfg)
        log.warning(
            "the weights come from elsewhere: the promise holds only if they were not trained on "
            "the images of data.train, of which some calibrate"
        )
    is_set_aside = bool(cfg.data.get("calibration_size")) and not any(
        key.startswith("data") for key in asked_keys()
    )
    config = planned(cfg, own)
    reads_selected = "selected" in detector_of(config, cfg.detector).named_blocks()
    with open_dict(cfg):
        cfg.detectors, cfg.benchmark = {cfg.detector: config}, cfg.test
        cfg.reselect |= reads_selected and not is_set_aside
    check_installed(OmegaConf.to_container(cfg, resolve=False))
    parts = build(cfg, state=state, trains=False)
    if cfg.reselect and parts.selection is None:
        raise ValueError(
            "expected a selection, since the block must be selected without the images that "
            "calibrate, got none; set selection=default, or detector=<one at a block of your own>"
        )
    trainer = new_trainer(cfg, parts, trains=False)
    with running(cfg):
        if parts.selection is not None:
            trainer.validate(parts.classifier, datamodule=parts.data, verbose=False)
            report_selection(cfg, trainer, parts.classifier.network)
        write_gate(cfg, config, parts.classifier.network, parts.data, trainer)


def export(cfg: DictConfig) -> None:
    """Exports the gate in a file, which needs neither data nor training.

    The key is not `gate`, which says in src.train whether to make one.

    Raises:
        ValueError: If no format is asked for, the file is no gate, or it cannot be exported.
    """
    from src.gate import Gate
    from src.gate.agreement import trial_images

    if not cfg.format:
        raise ValueError("expected a format beside export=, got none; set format=onnx or pt2")
    gate = Gate.load(cfg.export, trust=cfg.trust)
    write_exports(cfg, gate, Path(cfg.output or cfg.export), trial_images(gate))


def write_exports(cfg: DictConfig, gate: "Gate", path: Path, image: "Tensor") -> None:
    """Exports a gate to files beside its own, and says how they agree with it.

    Args:
        cfg: Configuration with the formats, and with what is exported.
        gate: Gate.
        path: File of the gate.
        image: (n, C, H, W) uint8 images to compare on.
    """
    from src.gate.export import export_gate
    from src.records.console import say

    found = export_gate(gate, path, cfg.format, image, classify=cfg.classify, half=cfg.half)
    for file, each in found.items():
        say(f"{file}: {each}")


def planned(cfg: DictConfig, *others: DictConfig) -> dict[str, Any]:
    """Returns the configuration of the gate's detector; sets aside the images that calibrate it.

    Args:
        cfg: Configuration of the run; of its held-out images, half are kept for calibration
            unless it says how many.
        others: Further configurations whose detectors may be named.

    Raises:
        ValueError: If there is no such detector, alpha is outside (0, 1), or too few images are
            held out for it.
    """
    from src.gate.making import asked_detector
    from src.metrics.conformal import allowed

    each = [OmegaConf.to_container(one.detectors, resolve=True) for one in (cfg, *others)]
    config = asked_detector(str(cfg.detector), *cast(list[dict[str, Any]], each))
    size = cfg.data.get("calibration_size") or cfg.data.validation_size // 2
    allowed(size, cfg.alpha)
    with open_dict(cfg):
        cfg.data.calibration_size = size
    return config


def write_gate(
    cfg: DictConfig,
    config: dict[str, Any],
    network: "Network",
    data: "ImageData",
    trainer: "L.Trainer",
) -> None:
    """Makes the gate of a run, and writes it with what it promises, on one process.

    Args:
        cfg: Configuration of the run.
        config: Configuration of the detector.
        network: Trained network with its selected block.
        data: Images, some of which calibrate.
        trainer: Trainer of the run.
    """
    from src.gate.file import save
    from src.gate.making import comparison_images, make_gate
    from src.gate.rates import ALPHAS, rates, rates_table
    from src.records.atomic import write_whole
    from src.records.console import say, show
    from src.run.configuration import without_weights
    from src.run.rebuild import detector_of

    test = bool(cfg.get("test"))
    gate, scores = make_gate(
        network, detector_of(config, cfg.detector), data, trainer,
        name=str(cfg.detector), alpha=cfg.alpha, by_class=cfg.by_class, test=test,
        made={"experiment": cfg.name, "seed": cfg.seed},
    )  # fmt: skip
    if not trainer.is_global_zero:
        return
    net = OmegaConf.to_container(without_weights(cfg.net), resolve=True)
    path = Path(cfg.get("output") or Path(cfg.run_dir) / "gate.pt")
    save(gate, path, cast(dict[str, Any], net), config)
    facts: dict[str, Any] = {
        "detector": gate.name,
        "alpha": gate.alpha,
        "bound": gate.calibration.bound,
        "by_class": gate.calibration.by_class,
        "images": len(gate.calibration.known),
        "score_threshold": gate.score_threshold,
        "cut": gate.cut,
        "digest": gate.digest,
    }
    if test:
        alphas = {*ALPHAS, gate.alpha}
        facts["rates"] = rates(
            scores, [*alphas], by_class=gate.calibration.by_class, classes=gate.classes
        )
        show(rates_table(facts["rates"]))
    text = json.dumps(facts, indent=2) + "\n"
    write_whole(path.with_suffix(".json"), lambda partial: partial.write_text(text))
    say(
        f"{path}: {gate.name} calls an image OOD if p <= {gate.alpha}. Of ID images like the "
        f"{facts['images']} that calibrated it, it rejects at most {100 * gate.alpha:g} % in the "
        f"mean, and at most {100 * facts['bound']:.1f} % with 95 % confidence"
    )
    if cfg.get("format"):
        write_exports(cfg, gate, path, comparison_images(data))


@literally
@hydra.main(version_base="1.3", config_path=str(CONF), config_name="deploy")
def main(cfg: DictConfig) -> None:
    """Composes the configuration and runs it."""
    try:
        deploy(cfg)
    finally:
        if loggers := sys.modules.get("src.loggers"):
            loggers.finish()


if __name__ == "__main__":
    main()
