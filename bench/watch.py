"""False alarms and delays of the watch over a stream: the numbers of docs/watch.md.

python -m bench.watch                    prints the tables again from docs/results/watch.json
python -m bench.watch RUN                measures: RUN is the directory of an evaluation of
                                         vgg11_cifar10_short, whose scores.npz is read
python -m src.evaluate checkpoint=vgg11_cifar10_short data=local data_dir=PATH detectors=quick

False alarms are counted on simulated ID streams, with capitals that are not those of the class but
computed anew, as products, for all streams at once. An ID stream needs no real scores: only their
order counts. Delays are those of the class on real scores: a stream draws calibration images and
ID images without replacement from the ID test images, and OOD images from a test set.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from bench import watch_tables
from src.metrics import Scores, ood_metrics
from src.metrics.watch import (
    EPSILONS,
    MARTINGALES,
    POWER,
    REFERENCES,
    SHARES,
    Fixed,
    Growing,
    Watch,
    power,
)

Array = NDArray[np.float64]
SIZES = (200, 1000, 5000)  # calibration images
DELTAS = (0.01, 0.05)
STREAMS, LENGTH = 1000, 10_000  # of the false alarms
DRAWN, WATCHED, CHANGE = 100, 5000, 5000  # streams of a delay, their length, images before a change
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


def false_alarms() -> list[dict[str, Any]]:
    """Returns how many ID streams raise an alarm, for each reference, martingale and delta."""
    found = []
    for n in SIZES:
        draw = np.random.default_rng(n)
        known = np.sort(draw.random((STREAMS, n)), axis=1)
        score = draw.random((STREAMS, LENGTH))
        rank = np.stack([k.searchsorted(s) for k, s in zip(known, score, strict=True)])
        smoothed = (rank + draw.random(score.shape)) / (n + 1)
        ranked = [
            np.concatenate([
                reference.p_value(part, 500 * number)
                for number, part in enumerate(np.split(s, LENGTH // 500))
            ])
            for s, reference in (
                (score[seed], Growing(known[seed], seed)) for seed in range(STREAMS)
            )
        ]  # fmt: skip
        top = {
            ("growing", delta): peak
            for peak in (peaks(power(p) for p in np.stack(ranked).T),)
            for delta in DELTAS
        }
        top |= {
            ("plain", delta): peak
            for peak in (peaks(power(p) for p in smoothed.T),)
            for delta in DELTAS
        }
        for delta in DELTAS:
            table = np.exp(Fixed(known[0], delta / 2).table)
            top["fixed", delta] = peaks(table[:, r] for r in rank.T) / 2
        for (reference, delta), peak in top.items():
            for name, capital in zip(MARTINGALES, peak, strict=True):
                count = int((capital >= 1 / delta).sum())
                low, high = clopper_pearson(count, STREAMS)
                found.append({
                    "images": n, "reference": reference, "martingale": name, "delta": delta,
                    "alarms": count, "streams": STREAMS, "low": low, "high": high,
                })  # fmt: skip
        print(f"false alarms with {n} calibration images counted", flush=True)
    return found


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
        watched = watch.update(torch.from_numpy(stream))
        line = -np.log10(watch.delta)
        for name in MARTINGALES:
            over = (getattr(watched, name) >= line).nonzero()
            found[name].append(int(over[0]) + 1 - start if len(over) else None)
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
    plans = [("start", n, share, 0) for n in SIZES for share in OOD_SHARES]
    plans += [("change", 1000, share, CHANGE) for share in OOD_SHARES[1:]]
    for part, images, share, start in plans:
        for name, score in sets.items():
            for reference in REFERENCES:
                length = WATCHED if not start else len(known) - 1000 - CHANGE
                length = min(length, len(score), 3000 if start else WATCHED)
                found = delays(
                    known.numpy(), score.numpy(), images, share, start, length,
                    reference=reference,
                )  # fmt: skip
                for martingale, delay in found.items():
                    content[part].append({
                        "images": images, "share": share, "set": name, "reference": reference,
                        "martingale": martingale, "length": length, **summary(delay),
                    })  # fmt: skip
        print(f"delays of {part} with {images} images, {share:.0%} OOD measured", flush=True)
    return content


def main() -> None:
    """Measures if a run is given, then prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, nargs="?")
    run = parser.parse_args().run
    if run is not None:
        content = {"false_alarms": false_alarms()}
        content["delays"] = all_delays(Scores.load(run / "scores.npz"))
        watch_tables.RESULT.write_text(json.dumps(content, indent=1) + "\n")
    tables: dict[str, Callable[[], str]] = watch_tables.TABLES
    for table in tables.values():
        print(table(), end="\n\n")


if __name__ == "__main__":
    main()
