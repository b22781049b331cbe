"""Ours beside every peer: the same weights, images, batches and machine, in one run.

python -m bench.peers [--images 200 --repeats 3 --minutes 12]    # writes docs/results/peers.json
python -m bench.peers --figure                                   # draws the figure from it

Each library runs in a process and an environment of its own (`bench.environments`), library after
library, again and again. Before any time counts, its scores and metrics are compared with ours.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from bench.environments import WAYS, environment
from bench.peer_tables import TITLES
from bench.runners.case import KEPT_OUT
from src.data import ImageFolder
from src.metrics import ood_metrics
from src.network import Network
from src.run import load_network

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs/results/peers.json"
FIGURE = ROOT / "docs/figures/peers.png"
ENVIRONMENTS = Path(tempfile.gettempdir()) / "block_selection_peers"
NETWORK = "vgg11_cifar10_short"
SETS = {"svhn": 16, "textures": 2, "tiny_imagenet": 8, "scenes_resize": 3, "scenes_crop": 6}
PATTERNS = 10  # of each class, if images are drawn
ID_CELLS = 4  # drawn images are smooth: random cells, as many per side, blown up
ORDER = (
    *("Energy", "MSP", "MaxLogit", "Entropy", "GEN", "KNN", "Mahalanobis", "RMDS", "ReAct", "SHE"),
    *("ASH", "SCALE", "ODIN", "GradNorm", "ViM", "DICE", "NCI", "FDBD", "NNGuide", "KLMatching"),
)
FIT = ("KNN", "Mahalanobis")
SIZES, MANY = (1, 8, 20), len(SETS)
# runner -> its environment (None: the running one), detectors of the same formulas, what it calls
# positive in FPR95
RUNNERS: dict[str, tuple[str | None, tuple[str, ...], str]] = {
    "ours": (None, ORDER, "ood"),
    "pytorch_ood": ("pytorch-ood", ORDER, "ood"),
    "pytorch_ood_tutorial": ("pytorch-ood", ORDER, "ood"),
    "oodeel": ("oodeel", ORDER[:13], "ood"),
    "torch_uncertainty": ("torch-uncertainty", ORDER[:4], "ood"),
    "detectors": (
        "detectors",
        (*ORDER[:4], "KNN", "ReAct", "ODIN", "GradNorm", "Mahalanobis"),
        "id",
    ),
    "openood": (None, ORDER, "ood"),
    "authors": (None, ORDER, "id"),
}


def drawn(count: int, cells: int, seed: int) -> Tensor:
    """Returns (N, 3, 32, 32) uint8 smooth images of random cells."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 3, cells, cells, generator=generator)
    image = interpolate(image, size=(32, 32), mode="bicubic", align_corners=False)
    return (255 * image.clamp(0, 1)).round().to(torch.uint8)


def patterns(network: Network) -> Tensor:
    """Returns (10 * PATTERNS, 3, 32, 32) images in [0, 1], which the network takes for a class.

    Class k has every tenth image from k on.
    """
    image = drawn(10 * PATTERNS, ID_CELLS, 0).float() / 255
    label = torch.arange(len(image)) % 10
    for _ in range(10):
        image.requires_grad_()
        loss = cross_entropy(network(image), label, reduction="sum")
        (slope,) = torch.autograd.grad(loss, image)
        image = (image.detach() - 4 / 255 * slope.sign()).clamp(0, 1)
    return image


def drawn_sets(
    network: Network, images: int, train: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns images and labels of all sets, which need no download.

    ID images are patterns of a class with noise, OOD images are drawn without any class.
    """
    base, known = patterns(network), {}
    for seed, (name, count) in enumerate({"train": train, "id": images}.items()):
        noise = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        image = base[torch.arange(count) % len(base)] + 0.05 * noise
        known[name] = (255 * image.clamp(0, 1)).round().to(torch.uint8)
    both = known | {name: drawn(images // 2, cells, 2) for name, cells in SETS.items()}
    return both, {name: torch.arange(len(each)) % 10 for name, each in both.items()}


def local_sets(
    folder: Path, images: int, train: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns images and labels of CIFAR-10 and of five OOD sets, as data=local finds them."""
    places = {"train": "cifar10/train", "id": "cifar10/test"} | {n: f"ood32/{n}" for n in SETS}
    counts = {"train": train, "id": images}
    image, label = {}, {}
    for name, place in places.items():
        source = ImageFolder(
            folder / place, 32, labelled=name in counts, sample=counts.get(name, images // 2)
        )
        loaded = source.load()
        order = torch.randperm(len(loaded), generator=torch.Generator().manual_seed(0))
        image[name], label[name] = loaded[order][:2]  # a part of them has every class
    return image, label


def write_case(folder: Path, options: argparse.Namespace) -> None:
    """Writes weights and images for all processes."""
    train = KEPT_OUT + max(options.train, options.fit_images)
    network = load_network(NETWORK)
    if options.data_dir is None:
        image, label = drawn_sets(network, options.images, train)
    else:
        image, label = local_sets(options.data_dir, options.images, train)
    state = network.net.state_dict()
    content = {"state": state, "image": image, "label": label, "batch": options.batch}
    torch.save(content | {"fit_images": options.train}, folder / "case.pt")


def tasks_of(runner: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns what a peer does: N detectors and M sets, then a fit on many images."""
    has = RUNNERS[runner][1]
    lists = [*dict.fromkeys(has[:n] for n in SIZES)]
    tasks = [
        {
            "detectors": list(names),
            "sets": [*SETS][:count],
            "fit_images": options.train,
            "keep_scores": names == lists[-1] and count == MANY,
        }
        for count in (1, MANY)
        for names in lists
    ]
    if set(FIT) <= {*has} and runner not in ("pytorch_ood_tutorial", "authors"):
        rest = {"sets": [], "fit_images": options.fit_images, "keep_scores": False}
        tasks.append({"detectors": [*FIT], **rest})
    return tasks


def key_of(task: dict[str, Any]) -> str:
    """Returns what makes a task of ours that of a peer."""
    return json.dumps([task["detectors"], task["sets"], task["fit_images"]])


def all_tasks(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Returns the tasks of each runner; ours has those of every peer."""
    tasks = {runner: tasks_of(runner, options) for runner in RUNNERS}
    ours = {key_of(task): dict(task) for each in tasks.values() for task in each}
    for task in ours.values():
        task["keep_scores"] = task["keep_scores"] and len(task["detectors"]) == len(ORDER)
    return tasks | {"ours": [*ours.values()]}


def start(runner: str, python: str, folder: Path, limit: float, *more: str) -> dict[str, Any]:
    """Runs a runner in its process; returns what it wrote until its end or the limit, and why."""
    output = folder / f"{runner}{''.join(more)}.json"
    output.unlink(missing_ok=True)
    command = [python, "-m", "bench.runners", runner, str(folder), str(output), *more]
    variables = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "BEGAN": str(time.time())}
    error = None
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | variables, timeout=limit,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        error = done.stderr.strip().splitlines()[-1][:200] if done.returncode else None
    except subprocess.TimeoutExpired:
        error = f"stopped after {limit:.0f} s"
    return {"rows": json.loads(output.read_text()) if output.exists() else [], "error": error}


def rounds(
    pythons: dict[str, str], folder: Path, options: argparse.Namespace, *more: str
) -> dict[str, list[dict[str, Any]]]:
    """Runs the runners in turn, again and again; one that took its share is not run again."""
    found: dict[str, list[dict[str, Any]]] = {runner: [] for runner in pythons}
    spent = dict.fromkeys(pythons, 0.0)
    share = 60 * options.minutes / len(pythons) / 2
    for repeat in range(options.repeats):
        for runner, python in pythons.items():
            if repeat and spent[runner] * (1 + 1 / repeat) > share:
                continue
            began = time.perf_counter()
            limit = options.limit if more else 60 * options.minutes
            found[runner].append(start(runner, python, folder, limit, *more))
            spent[runner] += time.perf_counter() - began
            error = found[runner][-1]["error"]
            print(f"{runner} {' '.join(more)}: {spent[runner]:.0f} s {error or ''}", flush=True)
    return found


def runs_of(
    runner: str, found: dict[str, list[dict[str, Any]]], tasks: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Returns the medians of each task of a peer, beside ours of the same task."""
    ours = {key_of(task): number for number, task in enumerate(tasks["ours"])}
    rows = []
    for number, task in enumerate(tasks[runner]):
        both = {
            "theirs": medians(found[runner], number),
            "ours": medians(found["ours"], ours[key_of(task)]),
        }
        if both["theirs"]:
            names = {"detectors": task["detectors"], "sets": len(task["sets"])}
            rows.append({"runner": runner, **names, "fit_images": task["fit_images"], **both})
    return rows


def medians(runs: Iterable[dict[str, Any]], number: int) -> dict[str, Any]:
    """Returns the medians of what one task took; empty if it never ended."""
    rows = [run["rows"][number] for run in runs if len(run["rows"]) > number]
    if not rows:
        return {}
    seconds = [row["seconds"] for row in rows]
    return {
        "seconds": median(seconds),
        "range": [min(seconds), max(seconds)],
        "repeats": len(rows),
        "images": rows[0]["images"],
        "GiB": median(row["GiB"] for row in rows),
    }


def equality(
    runner: str, folder: Path, rows: list[dict[str, Any]], tasks: dict[str, list[dict[str, Any]]]
) -> dict[str, dict[str, float]]:
    """Returns how far the scores and metrics of each detector of a peer are from ours."""
    files = {}
    for who in (runner, "ours"):
        number = next(n for n, task in enumerate(tasks[who]) if task["keep_scores"])
        if not (file := folder / f"{who}.{number}.npz").exists():
            return {}
        files[who] = dict(np.load(file)), number
    (theirs, number), (ours, _) = files[runner], files["ours"]
    metrics = rows[number]["metrics"]
    return {
        name: compared(name, theirs, ours, metrics, RUNNERS[runner][2])
        for name in tasks[runner][number]["detectors"]
    }


def compared(
    name: str, theirs: dict[str, Any], ours: dict[str, Any], metrics: dict[str, Any], positive: str
) -> dict[str, float]:
    """Returns differences of one detector: of scores, of metrics, and of metrics alone.

    The last are those of the peer's metrics from ours of the peer's own scores.
    """
    pairs = [(theirs[f"{name}/{s}"], ours[f"{name}/{s}"]) for s in ("id", *SETS)]
    both = [np.concatenate(each).astype(float) for each in zip(*pairs, strict=True)]
    found: dict[str, float] = {
        "score": float(np.abs(both[0] - both[1]).max()),
        "rank": float(spearmanr(*both)[0]),
    }
    keys = ("auroc", f"fpr95_{positive}_pos")
    for label, scores in (("", ours), ("_metric", theirs)):
        for place, key in enumerate(keys):
            found[key[:5] + label] = max(
                abs(
                    metrics[f"{name}/{ood}"][place]
                    - ood_metrics(*(float_scores(scores[f"{name}/{s}"]) for s in ("id", ood)))[key]
                )
                for ood in SETS
            )
    return found


def float_scores(score: Any) -> Tensor:
    """Returns scores as a float tensor; infinite ones and NaN become the lowest."""
    return torch.from_numpy(np.nan_to_num(score.astype(float), nan=-1e30))


def metrics_of(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns size -> seconds, memory and figures of the metrics of a peer, and why it ended."""
    rows = [run["rows"] for run in found if run["rows"]]
    sizes = rows[0] if rows else {}
    medianed = {
        size: {
            **sizes[size],
            "seconds": median(row[size]["seconds"] for row in rows if size in row),
        }
        for size in sizes
    }
    return {
        "sizes": medianed,
        "error": next((run["error"] for run in found if run["error"]), None),
    }


def hardware() -> dict[str, Any]:
    """Returns processor, cores and threads."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Makes the environments, runs everything, and returns what docs/results keeps."""
    options.environments.mkdir(parents=True, exist_ok=True)
    made = {name: environment(name, options.environments) for name in WAYS}
    pythons = {
        runner: made[place]["python"] if place else sys.executable
        for runner, (place, *_) in RUNNERS.items()
        if runner in options.only and (place is None or not made[place]["attempts"][-1]["error"])
    }
    tasks = all_tasks(options)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_case(folder, options)
        (folder / "tasks.json").write_text(json.dumps(tasks))
        found = rounds(pythons, folder, options)
        equal = {
            runner: equality(runner, folder, found[runner][-1]["rows"], tasks)
            for runner in pythons
            if runner != "ours"
        }
        metrics = rounds(pythons, folder, options, "--metrics")
    return {
        "command": command(options.data_dir),
        "images": {
            "drawn": options.data_dir is None, "id": options.images, "ood": options.images // 2,
            "train": options.train, "fit": options.fit_images, "batch": options.batch,
        },
        "hardware": hardware(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", "scikit-learn")},
        "environments": {
            name: {key: facts[key] for key in ("attempts", "versions")}
            for name, facts in made.items()
        },
        "first_result": {
            runner: median(run["rows"][0]["since_start"] for run in runs if run["rows"])
            for runner, runs in found.items()
            if any(run["rows"] for run in runs)
        },
        "errors": {runner: runs[-1]["error"] for runner, runs in found.items() if runs},
        "runs": [row for name in pythons if name != "ours" for row in runs_of(name, found, tasks)],
        "equality": equal,
        "metrics": {runner: metrics_of(runs) for runner, runs in metrics.items()},
    }  # fmt: skip


def command(data_dir: Path | None) -> str:
    """Returns the command line, with PATH for the folder of the images."""
    line = " ".join(["python -m bench.peers", *sys.argv[1:]])
    return line if data_dir is None else line.replace(str(data_dir), "PATH")


def draw(content: dict[str, Any], path: Path) -> None:
    """Draws how many times as long each peer takes, with all its detectors on all sets."""
    last: dict[str, dict[str, Any]] = {}
    for row in content["runs"]:
        if row["sets"] == MANY and row["ours"]:
            last[row["runner"]] = row  # the one of most detectors comes last
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    names = [*last][::-1]
    ratio = [last[n]["theirs"]["seconds"] / last[n]["ours"]["seconds"] for n in names]
    labels = [f"{TITLES[n]}, {len(last[n]['detectors'])} detectors" for n in names]
    bars = axes.barh(labels, ratio, color="#4477aa")
    axes.bar_label(bars, [f" {each:.1f}" for each in ratio])
    axes.axvline(1, color="#cc6677")
    axes.set_xlabel(f"times our seconds, same detectors, {MANY} OOD sets")
    axes.margins(x=0.12)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures and draws, or only draws."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--images", type=int, default=200, help="ID images; half as many of an OOD set"
    )
    parser.add_argument("--train", type=int, default=600, help="images to fit on")
    parser.add_argument("--fit-images", type=int, default=2000, help="of the fit of many")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=12, help="after it nothing is repeated")
    parser.add_argument("--limit", type=float, default=20, help="seconds for metrics of a library")
    parser.add_argument("--data-dir", type=Path, help="cifar10/ and ood32/; without: drawn images")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--only", nargs="+", default=[*RUNNERS], choices=[*RUNNERS])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--figure", action="store_true")
    options = parser.parse_args()
    if not options.figure:
        options.output.write_text(json.dumps(measure(options), indent=1) + "\n")
    draw(json.loads(options.output.read_text()), FIGURE)


if __name__ == "__main__":
    main()
