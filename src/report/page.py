"""The HTML page of a finished run, made from the files in its directory alone."""

__all__ = ["described", "set_rows", "write_page"]

import base64
import logging
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from src.records.atomic import try_to_write
from src.records.columns import block_columns, detector_columns
from src.records.history import read_history
from src.records.run_files import CONFIG_FILE, METRICS_FILE, read_bytes, read_config, read_metrics
from src.records.template import page_template
from src.report.blocks import Results, blocks_of, chosen_of, selection_of, weights_of

log = logging.getLogger(__name__)
TEMPLATE = Path(__file__).with_name("page.html.j2")
FIGURES = (
    "norm_ratio_curves",
    "norm_by_depth",
    "block_weights",
    "score_histograms",
    "roc",
    "most_confusing",
    "confusion",
)
SHOWN_METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos")  # the first: higher is better


def write_page(run_dir: Path) -> Path:
    """Writes `report.html`; returns its path.

    Raises:
        FileNotFoundError: If the directory is not that of a finished run.
        ValueError: If a file of the run is damaged.
    """
    if not (run_dir / METRICS_FILE).is_file():
        raise FileNotFoundError(
            f"expected the directory of a finished run, got {run_dir} without a metrics.json; "
            "name one such as logs/<name>/<time>"
        )
    template = page_template(TEMPLATE, percent=percent, tint=tint, duration=duration)
    page = template.render(content(run_dir))
    path = run_dir / "report.html"
    try_to_write(path, lambda partial: partial.write_text(page, encoding="utf-8"))
    return path


def content(run_dir: Path) -> dict[str, Any]:
    """Returns the variables of the template."""
    needed = ("id_accuracy", "forward_passes", "seconds", "versions")
    metrics = read_metrics(run_dir / METRICS_FILE, *needed)
    text, config = read_config(run_dir / CONFIG_FILE)
    first = text.partition("\n")[0]
    results, has_ood = metrics["detectors"], len(metrics["counts"]) > 1
    chosen, blocks = chosen_of(metrics), blocks_of(metrics)
    plain = detector_columns(results) or list(results)
    rest = [name for name in results if name not in (*plain, *block_columns(results).values())]
    return {
        "metrics": metrics,
        "facts": {"protocol": "", "groups": {}, "classes": []} | (metrics.get("data") or {}),
        "config": config,
        "config_text": text,
        "command": first.removeprefix("# ") if first.startswith("# ") else "",
        "is_trained_here": "train" in metrics["seconds"],
        "chosen": chosen,
        "average": results[chosen].get("average") if chosen else None,
        "columns": columns_of(metrics),
        "tables": [detector_rows(results, names) for names in (plain, rest) if names and has_ood],
        "blocks": blocks,
        "weighed": [weight_table(name, each) for name, each in weights_of(metrics).items()],
        "selection": selection_of(metrics, blocks, read_history(run_dir)),
        "sets": set_rows(metrics, config.get("data") or {}),
        "figures": {name: f for name in FIGURES if (f := figure(run_dir / f"figures/{name}.png"))},
    }


def columns_of(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the columns of the OOD table: average first, as a phone shows only two columns."""
    groups = (metrics.get("data") or {}).get("groups", {})
    return ["average", *groups, *(name for name in metrics["counts"] if name != "id")]


def detector_rows(
    results: Results, names: Iterable[str]
) -> list[tuple[str, dict[str, dict[str, tuple[str, bool]]]]]:
    """Returns detectors by average AUROC: name, column -> metric -> (percent, whether it is best).

    Values that print the same are both marked as the best, or neither is.
    """
    ranked = sorted(names, key=lambda name: -results[name]["average"]["auroc"])
    best: dict[tuple[str, str], float] = {}
    for name in ranked:
        for column, row in results[name].items():
            for key in SHOWN_METRICS:
                choose = max if key == "auroc" else min
                best[column, key] = choose(best.get((column, key), row[key]), row[key])
    return [
        (
            name,
            {
                column: {
                    key: (
                        percent(row[key]),
                        len(ranked) > 1 and percent(row[key]) == percent(best[column, key]),
                    )
                    for key in SHOWN_METRICS
                }
                for column, row in results[name].items()
            },
        )
        for name in ranked
    ]


def weight_table(name: str, weights: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """Returns a detector's weights as the template needs them.

    Args:
        name: Name of the detector.
        weights: Block, or "logits" -> input -> weight.

    Returns:
        `name`; `others`, the weights of no block; `inputs`, those of the blocks; `rows`, block ->
        input -> weight; and `largest`, the largest size of a weight.
    """
    rows = {block: each for block, each in weights.items() if block != "logits"}
    sizes = [abs(weight) for each in weights.values() for weight in each.values() if weight]
    return {
        "name": name,
        "others": weights.get("logits", {}),
        "inputs": list(dict.fromkeys(key for each in rows.values() for key in each)),
        "rows": rows,
        "largest": max(sizes, default=1.0),
    }


def set_rows(metrics: Mapping[str, Any], data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for each set of images: role and groups, where it comes from, and its size."""
    facts = metrics.get("data") or {}
    groups = facts.get("groups", {})
    ood = data.get("ood") or {}
    rows = []
    for name in dict.fromkeys((*facts.get("sets", {}), *metrics["counts"])):
        role = {"train": "ID, training", "id": "ID, test"}.get(name, "OOD")
        source = data.get("test" if name == "id" else name) if role != "OOD" else ood.get(name)
        of_set = facts.get("sets", {}).get(name, {})
        rows.append(
            {
                "name": name,
                "role": ", ".join(
                    [role, *(g for g, members in groups.items() if name in members)]
                ),
                "source": described(source),
                "images": metrics["counts"].get(name, of_set.get("images")),
                "skipped": of_set.get("skipped", 0),
                "view": of_set.get("view", ""),
                "codec_change": facts.get("codec_change", {}).get(name),
            }
        )
    return rows


def described(node: Any) -> str:
    """Returns a node of the configuration as the call that it stands for."""
    if isinstance(node, Mapping) and "_target_" in node:
        given = (
            f"{key}={described(value)}"
            for key, value in node.items()
            if not key.startswith("_") and value is not None
        )
        return f"{str(node['_target_']).rpartition('.')[2]}({', '.join(given)})"
    return "" if node is None else str(node)


def figure(path: Path) -> dict[str, Any] | None:
    """Returns a PNG file as a data URL with width and height; None if there is no such file."""
    if not path.exists():
        return None
    try:
        data = read_bytes(path)
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        log.warning("%s is left out of the page: %s", path, error)
        return None
    code = base64.b64encode(data).decode()
    return {"src": f"data:image/png;base64,{code}", "width": width, "height": height}


def percent(value: float) -> str:
    """Returns a fraction in percent, with one decimal."""
    return f"{100 * value:.1f}"


def tint(auroc: float) -> str:
    """Returns the color of a cell: blue above chance, orange below; chance is the palest."""
    distance = min(1.0, abs(auroc - 0.5) * 2)
    color = "0, 114, 178" if auroc >= 0.5 else "230, 159, 0"
    return f"background: rgba({color}, {0.06 + 0.54 * distance**2:.3f})"


def duration(seconds: float) -> str:
    """Returns a time in the unit that reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
