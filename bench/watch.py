"""False alarms and delays of the watch over a stream: those of docs/watch.md, and more.

python -m bench.watch                    prints the tables again, from docs/results/watch.json
python -m bench.watch false_alarms       counts false alarms
python -m bench.watch RUN                measures delays with the scores.npz in the directory of
python -m src.evaluate checkpoint=vgg11_cifar10_short data=local data_dir=PATH detectors=quick

False alarms are counted on simulated ID streams, with capitals that are not those of the class but
computed anew, as products, for all streams at once. An ID stream needs no real scores: only their
order counts. Delays are those of the class on real scores: a stream draws calibration images and
ID images without replacement from the ID test images, and OOD images from a test set.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import beta

from bench.watch_tables import DELAYS, RESULT, TABLES
from src.metrics import Scores, ood_metrics
from src.metrics.martingale import EPSILONS, POWER, SHARES, Array, power
from src.metrics.watch import MARTINGALES, REFERENCES, Fixed, Growing, Watch

SIZES = (200, 1000, 5000)  # calibration images
DELTAS = (0.01, 0.05)
STREAMS, LENGTH = 1000, 10_000  # of the false alarms
DRAWN, WATCHED = 15, 5000  # streams of a delay, and their length
PART = 250  # images between two looks at the capital
CHANGE, AFTER = 5000, 3000  # images before a change and after it
OOD_SHARES = (0.01, 0.05, 0.2, 1.0)
SETS = ("svhn", "tiny_imagenet")
DETECTOR = "featurenorm"


def peaks(values: Iterator[Array]) -> Array:
    """Returns (3, S): the largest capital that each martingale ever has, as a product.

    Args:
        values: For each image, the bets (E, S) with all the capital or (K, S) with each share.
    """
    share = SHARES[:, None, None]
    wealth, started, peak = np.ones(1), np.zeros(1), np.zeros(1)
    for position, value in enumerate(values, 1):
        bet = value
        if len(value) == len(EPSILONS):
            bet = (1 - share + share * value).reshape(-1, value.shape[1])
        started = bet * (started + 1 / (position * (position + 1)))
        wealth = bet * wealth
        restart = started.mean(axis=0) + 1 / (position + 1)
        peak = np.maximum(peak, [wealth[POWER], wealth.mean(axis=0), restart])
    return peak


def false_alarms(n: int) -> list[dict[str, Any]]:
    """Returns how many ID streams raise an alarm, for each reference, martingale and delta.

    "plain" ranks among the n calibration images alone, with random ties, and pays nothing for it.
    """
    draw = np.random.default_rng(n)
    known = np.sort(draw.random((STREAMS, n)), axis=1)
    score = draw.random((STREAMS, LENGTH))
    rank = np.stack([k.searchsorted(s) for k, s in zip(known, score, strict=True)])
    smoothed = (rank + draw.random(score.shape)) / (n + 1)
    growing = np.stack([growing_p_values(known[i], score[i], i) for i in range(STREAMS)])
    top = {
        "growing": dict.fromkeys(DELTAS, peaks(power(p) for p in growing.T)),
        "fixed": {
            delta: peaks(table[:, r] for r in rank.T) / 2
            for delta in DELTAS
            for table in (np.exp(Fixed(known[0], delta / 2).table),)
        },
        "plain": dict.fromkeys(DELTAS, peaks(power(p) for p in smoothed.T)),
    }
    found = []
    for reference, delta, position in product(top, DELTAS, range(len(MARTINGALES))):
        alarms = int((top[reference][delta][position] >= 1 / delta).sum())
        low, high = clopper_pearson(alarms, STREAMS)
        found.append({
            "images": n, "reference": reference, "martingale": MARTINGALES[position],
            "delta": delta, "alarms": alarms, "streams": STREAMS, "low": low, "high": high,
        })  # fmt: skip
    return found


def growing_p_values(known: Array, score: Array, seed: int) -> Array:
    """Returns the p-values of a stream whose reference grows."""
    reference, size = Growing(known, seed), 200
    return np.concatenate([
        reference.p_value(score[first : first + size], first)
        for first in range(0, len(score), size)
    ])  # fmt: skip


def clopper_pearson(count: int, trials: int) -> tuple[float, float]:
    """Returns the ends of the exact 95 % interval of a rate."""
    low = beta.ppf(0.025, count, trials - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, trials - count) if count < trials else 1.0
    return float(low), float(high)


def delays(
    known: Array, ood: Array, images: int, share: float, start: int, length: int, **options: Any
) -> dict[str, list[int | None]]:
    """Returns, for each martingale and stream, the images from the change to the alarm.

    None: there was no alarm. A number of at most 0: the alarm came before the change.

    Args:
        known: Scores of ID images.
        ood: Scores of OOD images.
        images: Number of calibration images.
        share: Share of OOD images after the change.
        start: Number of ID images before it.
        length: Number of images after it.
        options: Arguments of `Watch`.
    """
    found: dict[str, list[int | None]] = {name: [] for name in MARTINGALES}
    for seed in range(DRAWN):
        draw = np.random.default_rng(seed)
        id_images, ood_images = draw.permutation(known), draw.permutation(ood)
        is_ood = np.r_[np.zeros(start, bool), draw.random(length) < share]
        stream = np.empty(start + length)
        stream[is_ood] = ood_images[: is_ood.sum()]
        stream[~is_ood] = id_images[images : images + (~is_ood).sum()]
        watch = Watch(torch.from_numpy(id_images[:images]), seed=seed, **options)
        first: dict[str, int] = {}
        for part in torch.from_numpy(stream).split(PART):
            watched = watch.update(part)
            for name in set(MARTINGALES) - set(first):
                over = watched.position[getattr(watched, name) >= -np.log10(watch.delta)]
                first |= {name: int(over[0]) - start} if len(over) else {}
            if len(first) == len(MARTINGALES):
                break
        for name in MARTINGALES:
            found[name].append(first.get(name))
    return found


def summary(delay: list[int | None]) -> dict[str, Any]:
    """Returns the share of streams whose change was found, its median delay, and early alarms."""
    late = [each if each is not None and each > 0 else np.inf for each in delay]
    median = float(np.median(late))
    return {
        "found": float(np.isfinite(late).mean()),
        "median": median if np.isfinite(median) else None,
        "early": float(np.mean([each is not None and each <= 0 for each in delay])),
    }


def all_delays(scores: Scores) -> dict[str, Any]:
    """Returns the delays from the start of a stream and after a change in the middle."""
    column = scores.column(DETECTOR)
    known = scores.of("id")[:, column]
    sets = {name: scores.of(name)[:, column] for name in SETS}
    auroc = {name: float(ood_metrics(known, score)["auroc"]) for name, score in sets.items()}
    content: dict[str, Any] = {"detector": DETECTOR, "auroc": auroc, "start": [], "change": []}
    plans = [("start", n, share) for n in SIZES for share in OOD_SHARES]
    plans += [("change", 1000, share) for share in OOD_SHARES[1:]]
    for part, images, share in plans:
        before, after = (0, WATCHED) if part == "start" else (CHANGE, AFTER)
        for (name, score), reference in product(sets.items(), REFERENCES):
            found = delays(
                known.numpy(), score.numpy(), images, share, before, after, reference=reference
            )
            for martingale, delay in found.items():
                content[part].append({
                    "images": images, "share": share, "set": name, "reference": reference,
                    "martingale": martingale, "before": before, "after": after,
                    "streams": DRAWN, **summary(delay),
                })  # fmt: skip
        print(f"{part}, {images} calibration images, {share:.0%} OOD: measured", flush=True)
    return content


def main() -> None:
    """Measures the part that is asked for, then prints all tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", help="false_alarms, or the directory of a run")
    part = parser.parse_args().part
    if part is not None:
        content = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        if part == "false_alarms":
            content[part] = [row for n in SIZES for row in false_alarms(n)]
        else:
            content["delays"] = all_delays(Scores.load(Path(part, "scores.npz")))
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
    measured = json.loads(RESULT.read_text())
    for table in (*TABLES.values(), *(DELAYS.values() if "delays" in measured else ())):
        print(table(), end="\n\n")


if __name__ == "__main__":
    main()
