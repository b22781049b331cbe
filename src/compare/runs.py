"""Finds finished runs on disk and reads their files."""

__all__ = ["METRICS", "Run", "find_runs"]

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import correlation
from typing import Any

from src.records.columns import block_columns, detector_columns
from src.records.run_files import CONFIG_FILE, METRICS_FILE, read_config, read_metrics

METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos")
# settings that do not make another experiment: paths, and the keys of `src.evaluate`
APART = {
    *("run_dir", "data_dir", "resume", "logger", "tags", "job_type", "group", "run_name"),
    *("benchmark", "trust", "list_blocks"),
}
APART_ANYWHERE = {"seed", "history", "cache_dir", "workers"}


class Run:
    """One finished run, read from its metrics.json and, if present, its config.yaml.

    Args:
        path: Path of the metrics file.

    Raises:
        ValueError: If the file is not the metrics file of a run, or its config.yaml is damaged.

    Attributes:
        metrics: The content of the metrics file.
        config: The resolved configuration; empty without a config.yaml beside metrics.json.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = read_metrics(path)
        self.config: dict[str, Any] = {}
        if path.name == METRICS_FILE:
            _, self.config = read_config(path.with_name(CONFIG_FILE))

    @property
    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """The results: detector -> OOD set, group or "average" -> metric -> fraction."""
        results: dict[str, dict[str, dict[str, float]]] = self.metrics["detectors"]
        return results

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors, without columns of single blocks."""
        return detector_columns(self.results)

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks, from the first to the last."""
        return list(self.metrics["norm_ratio"])

    @property
    def name(self) -> str:
        """Name of the run directory, or of the metrics file if that has a name of its own."""
        return self.path.parent.name if self.path.name == "metrics.json" else self.path.stem

    @property
    def seeds(self) -> dict[str, Any]:
        """All seeds of the configuration: dotted path -> value."""
        flat = flatten(self.config)
        return {key: value for key, value in flat if key.rpartition(".")[2] == "seed"}

    @cached_property
    def setting(self) -> dict[str, str]:
        """The configuration without seeds and paths: dotted path -> value as text."""
        root = f"{self.config.get('data_dir')}/"
        setting: dict[str, str] = {}
        for key, value in flatten(self.config):
            parts = key.split(".")
            if parts[0] in APART or APART_ANYWHERE & set(parts) or value in (None, False, {}, []):
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            setting[key.replace("@", "_")] = text.removeprefix(root)  # a former name
        if setting.get("checkpoint"):  # a training run benchmarks its last checkpoint
            setting["checkpoint"] = Path(setting["checkpoint"]).stem
            if setting["checkpoint"] == "last":
                del setting["checkpoint"]
        return setting

    @property
    def images(self) -> tuple[Any, ...]:
        """Identity of the test images: protocol, and name, count and digest of each set."""
        data = self.metrics.get("data") or {}
        sets = data.get("sets", {})
        return data.get("protocol"), tuple(
            (name, count, sets.get(name, {}).get("sha256"))
            for name, count in self.metrics["counts"].items()
        )

    def score(self, detector: str, metric: str, source: str = "average") -> float | None:
        """Returns a metric of a detector, or None if the run does not have it."""
        return self.results.get(detector, {}).get(source, {}).get(metric)

    @property
    def accuracy(self) -> float | None:
        """Accuracy on the ID test images."""
        accuracy: float | None = self.metrics.get("id_accuracy")
        return accuracy

    @property
    def norm_ratio(self) -> float | None:
        """NormRatio of the selected block."""
        norm_ratio: dict[str, float] = self.metrics["norm_ratio"]
        return norm_ratio.get(self.metrics["selected_block"])

    @property
    def auroc_by_block(self) -> dict[str, float]:
        """Average AUROC of FeatureNorm at each block that was scored."""
        return {
            block: self.results[name]["average"]["auroc"]
            for block, name in block_columns(self.results).items()
        }

    @property
    def gap(self) -> float | None:
        """Average AUROC of FeatureNorm at the best block minus that at the selected block."""
        auroc = self.auroc_by_block
        selected = auroc.get(self.metrics["selected_block"])
        return None if selected is None else max(auroc.values()) - selected

    def spearman(self, source: str = "average") -> float | None:
        """Returns the rank correlation of NormRatio and the AUROC of FeatureNorm over blocks.

        It is None if fewer than two blocks were scored, or if all values are equal.
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
    """Returns the rank of each value; equal values share the mean of their ranks."""
    return [
        sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values
    ]


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Returns the finished runs under some paths, and messages about what was left out.

    Args:
        paths: Directories, searched recursively, or metrics files.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there is no finished run, or a given file is not a metrics file.
    """
    runs: dict[Path, Run] = {}
    left_out: list[str] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"expected a directory of runs or a metrics file, got {path}, which does not "
                "exist; runs are in logs/<name>/<time>, sweeps in logs/sweeps/<time>"
            )
        if path.is_file():
            runs[path.resolve()] = Run(path)
        for file in candidates(path):
            try:
                if file.name == "config.yaml":
                    left_out.append(f"{file.parent}: not finished, without metrics.json")
                elif file.is_dir():
                    left_out.append(f"{file}: empty, the job failed before the run began")
                else:
                    runs[file.resolve()] = Run(file)
            except (OSError, ValueError) as error:
                if file.name == "metrics.json":  # other JSON files are ignored
                    left_out.append(f"{file}: {error}")
    if not runs:
        raise ValueError(
            f"expected directories of finished runs, got {', '.join(map(str, paths))} without "
            f"any{''.join(f'; {each}' for each in left_out)}; train first: python -m src.train"
        )
    kept, copies = without_copies([runs[key] for key in sorted(runs)])
    return kept, list(dict.fromkeys([*left_out, *copies]))


def candidates(folder: Path) -> Iterator[Path]:
    """Yields JSON files, each config.yaml without metrics.json, and empty directories.

    Inside the directory of a run, whose loggers may keep anything there, it yields only other
    finished runs.
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
    """Returns the runs without copies, and a message about each copy."""
    first: dict[str, Run] = {}
    copies = []
    for run in runs:
        if (known := first.setdefault(json.dumps(run.metrics), run)) is not run:
            copies.append(f"{run.path}: a copy of {known.path}")
    return list(first.values()), copies


def flatten(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted path and the value of each setting; a list is one value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
