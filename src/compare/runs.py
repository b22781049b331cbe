"""Finished runs, as they lie on disk."""

__all__ = ["METRICS", "Run", "find_runs"]

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import correlation
from typing import Any

import yaml

from src.records.columns import block_columns, detector_columns

METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos")
NEEDED = ("experiment", "network", "selected_block", "norm_ratio", "counts", "detectors")
# what a run may differ in and still be the same experiment: places, and what evaluation adds
APART = {
    *("run_dir", "data_dir", "resume", "logger", "tags", "job_type", "group", "run_name"),
    *("benchmark", "trust", "list_blocks"),
}
APART_ANYWHERE = {"seed", "history", "cache_dir", "workers"}


class Run:
    """One finished run: what its metrics.json and, if it is there, its config.yaml say.

    Args:
        path: the metrics file.

    Raises:
        ValueError: if it is not the metrics file of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_bytes()
        try:
            metrics = json.loads(self.text)
        except ValueError as error:
            raise ValueError(
                f"expected the metrics.json of a run, got {path}, which is no JSON ({error}); "
                "repeat its benchmark: python -m src.evaluate checkpoint=..."
            ) from None
        self.metrics: dict[str, Any] = metrics if isinstance(metrics, dict) else {}
        if missing := [key for key in NEEDED if key not in self.metrics]:
            raise ValueError(
                f"expected the metrics.json of a run, got {path} without {', '.join(missing)}; "
                "give directories of src.train or src.evaluate"
            )
        for name, each in self.results.items():
            if not set(METRICS) <= each.get("average", {}).keys():
                raise ValueError(
                    f"expected {', '.join(METRICS)} of each detector's average, got {path} "
                    f"without those of {name}; repeat its benchmark: python -m src.evaluate ..."
                )

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration; empty where no config.yaml lies beside a metrics.json."""
        path = self.path.with_name("config.yaml")
        if self.path.name != "metrics.json" or not path.exists():
            return {}
        config = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return config if isinstance(config, dict) else {}

    @property
    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """The numbers: detector -> OOD set, group or "average" -> metric."""
        results: dict[str, dict[str, dict[str, float]]] = self.metrics["detectors"]
        return results

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors, without those of single blocks."""
        return detector_columns(self.results)

    @property
    def blocks(self) -> list[str]:
        """The blocks by depth."""
        return list(self.metrics["norm_ratio"])

    @property
    def name(self) -> str:
        """What the run is called: its directory, or a metrics file of another name."""
        return self.path.parent.name if self.path.name == "metrics.json" else self.path.stem

    @property
    def seeds(self) -> dict[str, Any]:
        """Every seed of the configuration: dotted path -> value."""
        flat = flatten(self.config)
        return {key: value for key, value in flat if key.rpartition(".")[2] == "seed"}

    @cached_property
    def setting(self) -> dict[str, str]:
        """What makes the experiment: the configuration without seeds and places, flat."""
        root = f"{self.config.get('data_dir')}/"
        setting: dict[str, str] = {}
        for key, value in flatten(self.config):
            parts = key.split(".")
            if parts[0] in APART or APART_ANYWHERE & set(parts) or value in (None, False, {}, []):
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            setting[key] = text.removeprefix(root)
        if setting.get("checkpoint"):  # that of the last epoch is what a training benchmarks
            setting["checkpoint"] = Path(setting["checkpoint"]).stem
            if setting["checkpoint"] == "last":
                del setting["checkpoint"]
        return setting

    @property
    def images(self) -> tuple[Any, ...]:
        """What tells its test images: protocol, sets, numbers, digests as far as known."""
        data = self.metrics.get("data") or {}
        sets = data.get("sets", {})
        return data.get("protocol"), tuple(
            (name, count, sets.get(name, {}).get("sha256"))
            for name, count in self.metrics["counts"].items()
        )

    def score(self, detector: str, metric: str, source: str = "average") -> float | None:
        """Returns a number of a detector, None where it has none."""
        return self.results.get(detector, {}).get(source, {}).get(metric)

    @property
    def accuracy(self) -> float | None:
        """Accuracy on ID test images."""
        accuracy: float | None = self.metrics.get("id_accuracy")
        return accuracy

    @property
    def norm_ratio(self) -> float | None:
        """NormRatio of the selected block."""
        norm_ratio: dict[str, float] = self.metrics["norm_ratio"]
        return norm_ratio.get(self.metrics["selected_block"])

    @property
    def auroc_by_block(self) -> dict[str, float]:
        """Average AUROC of FeatureNorm at each block, as far as they were scored."""
        return {
            block: self.results[name]["average"]["auroc"]
            for block, name in block_columns(self.results).items()
        }

    @property
    def gap(self) -> float | None:
        """Average AUROC of FeatureNorm that the best block in hindsight has more."""
        auroc = self.auroc_by_block
        selected = auroc.get(self.metrics["selected_block"])
        return None if selected is None else max(auroc.values()) - selected

    def spearman(self, source: str = "average") -> float | None:
        """Returns the rank correlation of NormRatio and FeatureNorm's AUROC over the blocks.

        None where fewer than two blocks were scored, or all have the same number.
        """
        norm_ratio, columns = self.metrics["norm_ratio"], block_columns(self.results)
        pairs = [
            (norm_ratio[block], auroc)
            for block in self.blocks
            if (auroc := self.score(columns.get(block, ""), "auroc", source)) is not None
        ]
        ranked = [ranks(values) for values in zip(*pairs, strict=True)]
        if len(pairs) < 2 or any(len(set(each)) == 1 for each in ranked):
            return None
        return correlation(*ranked)


def ranks(values: Sequence[float]) -> list[float]:
    """Returns the place of each value among all; equal ones share the mean of their places."""
    return [
        sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values
    ]


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Returns the finished runs under some paths, and what was left out and why.

    Args:
        paths: directories to look through, or metrics files.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is no finished run, or a given file is none.
    """
    runs: dict[Path, Run] = {}
    left_out: list[str] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"expected a directory of runs or a metrics file, got {path}, which does not "
                "exist; runs are in logs/<name>/<time>, those of a sweep in logs/sweeps/<time>"
            )
        if path.is_file():
            runs[path.resolve()] = Run(path)
        for file in candidates(path):
            try:
                if file.name == "config.yaml":
                    left_out.append(f"{file.parent}: not finished, no metrics.json")
                elif file.is_dir():
                    left_out.append(f"{file}: empty, the job ended before it began")
                else:
                    runs[file.resolve()] = Run(file)
            except ValueError as error:
                if file.name == "metrics.json":  # other JSON files are nobody's business
                    left_out.append(f"{file}: {error}")
    if not runs:
        raise ValueError(
            f"expected directories with finished runs, got {', '.join(map(str, paths))} with "
            f"none{''.join(f'; {each}' for each in left_out)}; train first: python -m src.train"
        )
    kept, copies = without_copies([runs[key] for key in sorted(runs)])
    return kept, list(dict.fromkeys([*left_out, *copies]))


def candidates(folder: Path) -> Iterator[Path]:
    """Yields JSON files, config.yaml without metrics.json beside it, and empty directories.

    Within the directory of a run, whose loggers may keep anything there, it yields finished runs.
    """
    runs: set[Path] = set()
    for place, folders, files in os.walk(folder):
        here, is_empty = Path(place), not folders and not files
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if "config.yaml" in files:
            runs.add(here)
        if runs.intersection(here.parents):
            if {"config.yaml", "metrics.json"} <= set(files):
                yield here / "metrics.json"
            continue
        if is_empty:
            yield here
        if "config.yaml" in files and "metrics.json" not in files:
            yield here / "config.yaml"
        yield from (here / file for file in sorted(files) if file.endswith(".json"))


def without_copies(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Returns the runs that are not the same as another byte for byte, and what was left out."""
    first: dict[bytes, Run] = {}
    copies = []
    for run in runs:
        if (known := first.setdefault(run.text, run)) is not run:
            copies.append(f"{run.path}: the same as {known.path}")
    return list(first.values()), copies


def flatten(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted paths and values; a list is a value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
