"""Makes a gate: fits its detector and calibrates it on ID images that did nothing else."""

__all__ = ["asked_detector", "comparison_images", "make_gate"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import PIL
import torch
from torch import Tensor

from src.benchmark import Benchmark
from src.detectors import Detector
from src.gate.calibration import Calibration
from src.gate.gate import Gate
from src.gate.picture import Picture
from src.metrics.score_table import Scores
from src.records.columns import Column

if TYPE_CHECKING:
    import lightning as L

    from src.data import ImageData
    from src.network import Network

CALIBRATION = "calibration"
COMPARED = 1000  # images on which an export is compared with its gate


def asked_detector(name: str, *configured: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a detector, `name` or `name@block`.

    Args:
        name: Name of a column of a benchmark.
        configured: Name -> configuration; earlier ones count first.

    Raises:
        ValueError: If none has this name.
    """
    column = Column.parse(name)
    for detectors in configured:
        wanted = (
            [name] if column.block is None else [column.detector, f"{column.detector}_each_block"]
        )
        for each in wanted:
            if each in detectors:
                config = dict(detectors[each])
                return config if column.block is None else config | {"at": column.block}
    names = sorted({name for detectors in configured for name in detectors})
    raise ValueError(f"expected a detector out of {', '.join(names)}, got {name!r}; choose one")


def make_gate(
    network: "Network",
    detector: Detector,
    data: "ImageData",
    trainer: "L.Trainer",
    *,
    name: str,
    alpha: float,
    by_class: bool = False,
    test: bool = False,
    made: Mapping[str, Any] | None = None,
) -> tuple[Gate, Scores]:
    """Returns the gate, and the scores of its calibration images and of what else was scored.

    Args:
        network: Trained classifier. If the detector reads the selected block, it was selected
            without the calibration images.
        detector: Detector, not fitted.
        data: Images; its `calibration_size` held-out images calibrate.
        trainer: Trainer that runs the loop, on any number of processes.
        name: Name of the detector.
        alpha: Largest rate of false alarms.
        by_class: Whether the p-value is conditional on the predicted class.
        test: Whether the test and OOD images are scored too; nothing in the gate depends on them.
        made: Facts about how the network was made.

    Raises:
        ValueError: If no image calibrates, too few do for alpha, or a score is not finite.
    """
    if not data.calibration_size:
        raise ValueError(
            "expected held-out images that calibrate, got none; set data.calibration_size"
        )
    sources = (CALIBRATION, *(data.sources if test else ()))
    benchmark = Benchmark(network, {name: detector}, sources)
    scores = benchmark.run(trainer, data)
    (column,) = benchmark.columns.values()
    used = scores.source == 0
    prediction = scores.prediction[used] if by_class else None
    classes = [str(each) for each in data.named["id"].classes]
    calibration = Calibration(scores.of(CALIBRATION)[:, 0], prediction, alpha, classes)
    versions = {"torch": str(torch.__version__), "pillow": PIL.__version__}
    gate = Gate(
        network,
        column,
        calibration.to(network.mean.device),
        classes=classes,
        picture=Picture.of(network.image_shape, data.named["id"].view),
        name=name,
        made={**(made or {}), "selected_block": network.selected, "versions": versions},
    )
    return gate, scores


def comparison_images(data: "ImageData") -> Tensor:
    """Returns up to 1,000 (n, C, H, W) uint8 images, in equal shares of test and OOD sets."""
    share = COMPARED // len(data.sources)
    return torch.cat(
        [data.pictures(name, torch.arange(min(share, data.images(name)))) for name in data.sources]
    )
