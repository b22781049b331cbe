"""What gates of the released networks flag on the full local sets, and one of a quickstart.

python -m bench.gates data_dir=PATH             # measures; writes docs/results/gates.json
python -m bench.gates data_dir=PATH ResNet18    # measures one network
python -m bench.gates quickstart=CHECKPOINT     # measures a quickstart

Half of the held-out ID images select the block and fit the profile, the other half calibrate. No
test image and no OOD image has a part in any threshold.
"""

import json
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from bench.common import new_trainer
from src.benchmark import Benchmark
from src.classifier import Classifier
from src.data import ImageData
from src.gate.rates import ALPHAS, rates
from src.run import load_network

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs/results/gates.json"
RELEASED = {"VGG11": "vgg11", "WRN-16-4": "wrn16_4", "ResNet18": "resnet18"}
QUICKSTART = "quickstart"
DETECTORS = ("norm_profile", "featurenorm", "energy")


def measured(network: str, *overrides: str) -> dict[str, Any]:
    """Returns detector -> alpha -> rates of one network."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["run_dir=unused", "selection.history=false", *overrides])
    data: ImageData = instantiate(cfg.data, calibration_size=cfg.data.validation_size // 2)
    classifier, selection = Classifier(load_network(network)), instantiate(cfg.selection)
    trainer = new_trainer("32-true", selection)
    trainer.validate(classifier, datamodule=data, verbose=False)
    detectors = {name: instantiate(cfg.detectors[name]) for name in DETECTORS}
    benchmark = Benchmark(classifier.network, detectors, ("calibration", *data.sources))
    scores = benchmark.run(trainer, data)
    found = {
        name: rates(scores, ALPHAS, classes=data.named["id"].classes, column=scores.column(name))
        for name in DETECTORS
    }
    return {"calibration": data.calibration_size, "images": scores.counts, "detectors": found}


def keep(title: str, found: dict[str, Any]) -> None:
    """Writes what was measured beside what is there."""
    content: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    content[title] = found
    ordered = {name: content[name] for name in (*RELEASED, QUICKSTART) if name in content}
    RESULT.write_text(json.dumps(ordered, indent=1) + "\n")
    print(title, json.dumps(found["detectors"]["norm_profile"]), flush=True)


def main() -> None:
    """Measures the named networks, or all, and keeps what is measured as soon as it is there."""
    overrides = [word for word in sys.argv[1:] if "=" in word]
    for word in overrides:
        if word.startswith(f"{QUICKSTART}="):
            keep(QUICKSTART, measured(word.partition("=")[2]))
            return
    for title in [word for word in sys.argv[1:] if "=" not in word] or RELEASED:
        keep(title, measured(f"{RELEASED[title]}_cifar10_short", "data=local", *overrides))


if __name__ == "__main__":
    main()
