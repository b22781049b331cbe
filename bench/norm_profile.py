"""What NormProfile owes to each of its parts, on the released networks and the full local sets.

python -m bench.norm_profile data_dir=PATH    # measures; writes docs/results/norm_profile.json
python -m bench.norm_profile                  # draws the figures of docs/norm_profile.md from it

The inputs of the profile are computed once and kept below logs/norm_profile. Every rule is then
fitted and scored on them. No fit sees an OOD image. What "chosen" reports on a network and an OOD
set is of a rule that was chosen on the other networks and the other sets.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from src.data import ImageData
from src.data.distortions import Blur, Mixture, Noise, Rotate, Zoom
from src.data.pseudo_ood import Jigsaw
from src.detectors import NormProfile
from src.detectors.log_odds import CONSTANT, log_odds
from src.metrics import ood_metrics
from src.metrics.stability import reseeded
from src.network import Network
from src.records.selection import select
from src.run import load_network

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs/results/norm_profile.json"
KEPT = ROOT / "logs/norm_profile"
NETWORKS = {"VGG11": "vgg11", "WRN-16-4": "wrn16_4", "ResNet18": "resnet18"}
ID, HELD_OUT, BATCH = "id", "validation", 250
TEN = (
    *("jigsaw_2", "jigsaw_4", "jigsaw_8", "jigsaw_16", "pixels"),
    *("blur_5", "blur_9", "zoom", "phase", "invert"),
)
FURTHER = {
    "jigsaw_3": Jigsaw(3, border="keep", identity=False),
    "blur_3": Blur(3),
    "zoom_2": Zoom(2),
    "rotate": Rotate(),
    "noise_0.1": Noise(0.1),
    "noise_0.5": Noise(0.5),
    "mixture": Mixture(),
    "blur_15": Blur(15),
}
JIGSAWS, EIGHTEEN = TEN[:5], (*TEN, *FURTHER)
OTHER_SEED, FEWER = 1, 2000  # held-out images
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """One way to fit the profile.

    Attributes:
        statistics: Inputs: "norm", "mean", "energy".
        pool: Members of the pool.
        images: Number of held-out images.
        penalty: Penalty of the weights.
        nonnegative: Whether weights are at least 0.
        without: A block that is left out.
        seed: Seed of the distortions.
    """

    statistics: tuple[str, ...] = ("norm", "mean", "energy")
    pool: tuple[str, ...] = TEN
    images: int = 5000
    penalty: float = 1.0
    nonnegative: bool = False
    without: str | None = None
    seed: int = 0


class Inputs:
    """The inputs of the profile on one network.

    Attributes:
        blocks: Paths of the blocks, by depth.
        ratio: NormRatio of each block.
        names: Block and statistic of each of the D columns.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.blocks, self.ratio = network.blocks, dict(network.norm_ratio)
        self.network, self.folder = network, folder
        self.read: dict[str, Rows] = {}
        self.profile = NormProfile({"none": Mixture()})
        self.names = self.profile.names(network)

    def __getitem__(self, name: str) -> Rows:
        """Returns the (N, D) inputs of a set, or of the held-out images after a distortion."""
        if name not in self.read:
            self.read[name] = np.load(self.folder / f"{name}.npy")
        return self.read[name]

    @torch.no_grad()
    def compute(self, name: str, image: Tensor, change: Callable[..., Tensor] | None) -> None:
        """Computes inputs of (N, C, H, W) uint8 images, unless they are there."""
        file = self.folder / f"{name}.npy"
        if file.exists():
            return
        rows, read = [], tuple(self.profile.reads(self.network))
        for index in torch.arange(len(image)).split(BATCH):
            batch = image[index].float() / 255
            batch = batch if change is None else change(batch, index)
            seen = self.network.observe(batch, keep_maps=False, read=read)
            rows.append(self.profile.inputs(seen).numpy())
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.concatenate(rows))
        print(f"{self.folder.name}: {name}", flush=True)


def measured(data_dir: str) -> dict[str, Inputs]:
    """Returns the inputs of each network, computed where they are missing."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("train", ["data=local", f"data_dir={data_dir}", "run_dir=unused"])
    data: ImageData = instantiate(cfg.data)
    pool = {**instantiate(cfg.detectors.norm_profile.pool), **FURTHER}
    data.test_on((HELD_OUT, *data.sources))
    data.setup("test")
    images = {name: data.pictures(name, torch.arange(data.images(name))) for name in data.sources}
    held_out = data.pictures("train", torch.arange(data.validation_size))  # they come first
    found = {}
    for title, name in NETWORKS.items():
        found[title] = each = Inputs(load_network(f"{name}_cifar10_short"), KEPT / name)
        for source, image in images.items():
            each.compute(source, image, None)
        each.compute(HELD_OUT, held_out, None)
        for member, change in pool.items():
            each.compute(member, held_out, change)
            if member in TEN and "seed" in vars(change):
                other = reseeded(change, OTHER_SEED)
                each.compute(f"{member}_seed1", held_out[:FEWER], other)
    return found


def fitted(inputs: Inputs, rule: Rule) -> tuple[Callable[[str], Rows], Rows]:
    """Returns what scores a set under a rule, and the weights of its inputs."""
    column = [
        block != rule.without and statistic in rule.statistics for block, statistic in inputs.names
    ]
    names = [
        f"{each}_seed1" if rule.seed and (inputs.folder / f"{each}_seed1.npy").exists() else each
        for each in (HELD_OUT, *rule.pool)
    ]
    row = np.stack([inputs[name][: rule.images, column] for name in names], axis=1)
    mean, deviation = row[:, 0].mean(axis=0), row[:, 0].std(axis=0)
    deviation = np.where(deviation > CONSTANT, deviation, np.inf)
    weight, bias = log_odds((row - mean) / deviation, rule.penalty, nonnegative=rule.nonnegative)
    return lambda name: (inputs[name][:, column] - mean) / deviation @ weight + bias, weight


def results(score: Callable[[str], Rows], sets: tuple[str, ...]) -> dict[str, list[float]]:
    """Returns AUROC and FPR95 (ID positive) in percent on each OOD set, and their averages."""
    own = torch.from_numpy(score(ID))
    found = {}
    for name in sets:
        each = ood_metrics(own, torch.from_numpy(score(name)))
        found[name] = [100 * each["auroc"], 100 * each["fpr95_id_pos"]]
    return {**found, "average": np.mean([*found.values()], axis=0).tolist()}


def baselines(inputs: Inputs) -> dict[str, Callable[[str], Rows]]:
    """Returns FeatureNorm at the block of largest NormRatio, and Energy."""
    chosen = int(select([inputs.ratio[block] for block in inputs.blocks]))
    return {"FeatureNorm": lambda name: inputs[name][:, chosen],
            "Energy": lambda name: inputs[name][:, -1]}  # fmt: skip


def interval(score: Callable[[str], Rows], sets: tuple[str, ...]) -> list[list[float]]:
    """Returns 95 % bootstrap intervals of both averages: 200 samples of the images of each set."""
    random, found = np.random.default_rng(0), []
    known = {name: score(name) for name in (ID, *sets)}
    for _ in range(200):
        drawn = {name: random.choice(each, len(each)) for name, each in known.items()}
        found.append(results(drawn.__getitem__, sets)["average"])
    ends: list[list[float]] = np.percentile(found, [2.5, 97.5], axis=0).T.tolist()
    return ends


def parts(blocks: tuple[str, ...]) -> Iterator[tuple[str, str, Rule]]:
    """Yields the default, and rules that differ from it in one part: part, value, rule.

    Those are fitted on 2,000 images, except where their number is the part.
    """
    yield "default", "", Rule()
    rule = Rule(images=FEWER)
    yield "default, 2,000 images", "", rule
    for statistics in (("norm", "energy"), ("mean", "energy"), ("norm", "mean"), ("norm",)):
        yield "statistics", " + ".join(statistics), replace(rule, statistics=statistics)
    for images in (100, 200, 500, 1000, 2000, 5000):
        yield "held-out images", str(images), replace(rule, images=images)
    for size in (1, 2, 3, 5, 7, 10, 14, 18):
        yield "size of the pool", str(size), replace(rule, pool=EIGHTEEN[:size])
    for member in TEN:
        pool = tuple(each for each in TEN if each != member)
        yield "without a distortion", member, replace(rule, pool=pool)
    yield "weights at least 0", "ten", replace(rule, nonnegative=True)
    yield "weights at least 0", "puzzles alone", replace(rule, pool=JIGSAWS, nonnegative=True)
    for penalty in (0.1, 10.0, 100.0):
        yield "penalty", f"{penalty:g}", replace(rule, penalty=penalty)
    for number, block in enumerate(blocks, 1):
        yield "without a block", str(number), replace(rule, without=block)
    yield "seed of the distortions", str(OTHER_SEED), replace(rule, seed=OTHER_SEED)


def candidates() -> list[Rule]:
    """Returns the rules among which "chosen" chooses."""
    statistics = (("norm", "energy"), ("mean", "energy"), ("norm", "mean", "energy"))
    pools, penalties = (JIGSAWS, TEN, EIGHTEEN), (1.0, 100.0)
    every = product(statistics, pools, penalties, (False, True))
    return [Rule(s, pool, FEWER // 2, penalty, sign) for s, pool, penalty, sign in every]


def chosen(found: Mapping[str, Inputs], sets: tuple[str, ...]) -> dict[str, Any]:
    """Returns results of rules that were chosen on the other networks and the other OOD sets."""
    rules = candidates()
    table = np.array([
        [[results(fitted(inputs, rule)[0], sets)[name] for name in sets] for rule in rules]
        for inputs in found.values()
    ])  # (networks, rules, sets, 2)  # fmt: skip
    outcome: dict[str, Any] = {}
    for position, network in enumerate(found):
        outcome[network] = {}
        for number, name in enumerate(sets):
            others = np.delete(np.delete(table[..., 0], position, axis=0), number, axis=2)
            best = int(others.mean(axis=(0, 2)).argmax())
            kept = table[position, best, number].tolist()
            outcome[network][name] = {"rule": asdict(rules[best]), "result": kept}
        average = np.mean([each["result"] for each in outcome[network].values()], axis=0)
        outcome[network]["average"] = {"result": average.tolist()}
    return outcome


def study(found: Mapping[str, Inputs]) -> dict[str, Any]:
    """Returns everything that docs/norm_profile.md shows."""
    content: dict[str, Any] = {"networks": {}}
    sets = ("svhn", "textures", "tiny_imagenet", "scenes_resize", "scenes_crop")
    for network, inputs in found.items():
        score, weight = fitted(inputs, Rule())
        rows = [
            {"part": part, "value": value, **results(fitted(inputs, rule)[0], sets)}
            for part, value, rule in parts(inputs.blocks)
        ]
        beside = {"NormProfile": score, **baselines(inputs)}
        content["networks"][network] = {
            "blocks": inputs.blocks,
            "norm_ratio": inputs.ratio,
            "weights": [[*name, each] for name, each in zip(inputs.names, weight, strict=True)],
            "detectors": {name: results(each, sets) for name, each in beside.items()},
            "intervals": {name: interval(each, sets) for name, each in beside.items()},
            "parts": rows,
        }
        print(network, content["networks"][network]["detectors"], flush=True)
    content["chosen"] = chosen(found, sets)
    return content


def draw(content: Mapping[str, Any]) -> dict[str, Figure]:
    """Returns the figures: how much it takes, and which blocks decide."""
    needs, weights = Figure((8, 3), layout="constrained"), Figure((8, 6), layout="constrained")
    left, right = needs.subplots(1, 2, sharey=True)
    for axes, part in ((left, "held-out images"), (right, "size of the pool")):
        for network, each in content["networks"].items():
            rows = [row for row in each["parts"] if row["part"] == part]
            x, y = zip(*((int(row["value"]), row["average"][0]) for row in rows), strict=True)
            axes.plot(x, y, marker="o", ms=3, label=network)
        axes.set(xlabel=part)
    left.set_xscale("log")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("average AUROC (%)")
    right.legend(frameon=False)
    for axes, (network, each) in zip(
        weights.subplots(3, 1, squeeze=True), content["networks"].items(), strict=True
    ):
        of = {(block, statistic): weight for block, statistic, weight in each["weights"]}
        place = np.arange(len(each["blocks"]))
        for shift, statistic in ((-0.2, "norm"), (0.2, "mean")):
            height = [of[block, statistic] for block in each["blocks"]]
            axes.bar(place + shift, height, 0.4, label=statistic)
        axes.axhline(0, color="0.5", lw=0.8)
        axes.set_xticks(place, each["blocks"])
        axes.set(ylabel="weight (> 0: ID)", title=network)
    weights.axes[0].legend(frameon=False, ncols=2)
    return {"norm_profile_needs": needs, "norm_profile_weights": weights}


def main() -> None:
    """Measures if images are given, then draws."""
    if len(sys.argv) > 1:
        content = study(measured(sys.argv[1].removeprefix("data_dir=")))
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
    for name, figure in draw(json.loads(RESULT.read_text())).items():
        figure.savefig(ROOT / f"docs/figures/{name}.png", dpi=110)


if __name__ == "__main__":
    main()
