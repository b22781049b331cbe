"""One page about a finished run, made of the files in its directory: nothing is fetched."""

__all__ = ["described", "set_rows", "write_page"]

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from PIL import Image

from src.records.atomic import try_to_write
from src.records.columns import block_columns, chosen_column, detector_columns
from src.records.history import History, read_history
from src.records.selection import margin, select

FIGURES = (
    "norm_ratio_curves",
    "norm_by_depth",
    "score_histograms",
    "roc",
    "most_confusing",
    "confusion",
)
SHOWN_METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos")  # the first: higher is better
Row = Mapping[str, float]


def write_page(run_dir: Path) -> Path:
    """Writes `report.html`; returns its path.

    Raises:
        FileNotFoundError: if the directory is not that of a finished run.
    """
    if not (run_dir / "metrics.json").is_file():
        raise FileNotFoundError(
            f"expected the directory of a finished run, got {run_dir} without a metrics.json; "
            "name one such as logs/<name>/<time>"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names of classes and sets are the user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "tint": tint, "duration": duration}
    page = environment.get_template("page.html.j2").render(content(run_dir))
    path = run_dir / "report.html"
    try_to_write(path, lambda partial: partial.write_text(page))
    return path


def content(run_dir: Path) -> dict[str, Any]:
    """Returns what the template is filled with."""
    metrics = json.loads((run_dir / "metrics.json").read_text())
    saved = run_dir / "config.yaml"
    text = saved.read_text() if saved.exists() else ""
    config = yaml.safe_load(text) or {}
    first = text.partition("\n")[0]
    results = metrics["detectors"]
    chosen = chosen_column(list(results), metrics["selected_block"])
    plain = detector_columns(results) or list(results)
    known = {*plain, *block_columns(results).values()}
    rest = [name for name in results if name not in known]
    return {
        "metrics": metrics,
        "facts": {"protocol": "", "groups": {}, "classes": []} | metrics.get("data", {}),
        "config": config,
        "config_text": text,
        "command": first.removeprefix("# ") if first.startswith("# ") else "",
        "is_trained_here": "train" in metrics["seconds"],
        "chosen": chosen,
        "average": results[chosen]["average"] if chosen else None,
        "columns": columns_of(metrics),
        "tables": [detector_rows(results, names) for names in (plain, rest) if names],
        "blocks": block_rows(metrics),
        "selection": selection(metrics, read_history(run_dir)),
        "sets": set_rows(metrics, config.get("data") or {}),
        "figures": {name: f for name in FIGURES if (f := figure(run_dir / f"figures/{name}.png"))},
    }


def columns_of(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the columns of the OOD table: average first, since a phone shows two columns."""
    groups = metrics.get("data", {}).get("groups", {})
    return ["average", *groups, *list(metrics["counts"])[1:]]


def detector_rows(
    results: Mapping[str, Mapping[str, Row]], names: Iterable[str]
) -> list[tuple[str, dict[str, dict[str, tuple[str, bool]]]]]:
    """Returns detectors by average AUROC: name, column -> metric -> (percent, is it the best).

    The best is told by what is printed: of two that read the same, both or neither are.
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


def block_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns each block: NormRatio, its standard error, and the results of FeatureNorm."""
    results = metrics["detectors"]
    columns = block_columns(results)
    bootstrap = metrics.get("selection_stability", {}).get("bootstrap", {})
    return [
        {
            "name": block,
            "norm_ratio": metrics["norm_ratio"].get(block),
            "error": bootstrap.get("standard_error", {}).get(block),
            "results": results.get(columns.get(block, "")),
        }
        for block in metrics["norm_ratio"] or columns
    ]


def selection(metrics: Mapping[str, Any], history: History | None) -> dict[str, Any] | None:
    """Returns why the block was selected, how firmly, and what hindsight says; None without."""
    ratio, selected = metrics["norm_ratio"], metrics["selected_block"]
    if not ratio or selected not in ratio:
        return None
    found: dict[str, Any] = {"ratio": ratio[selected], "second": None, "epochs": None}
    others = [block for block in ratio if block != selected]
    if others:
        found["second"] = others[int(select([ratio[block] for block in others]))]
        found["margin"] = float(margin(list(ratio.values()), list(ratio).index(selected)))
    if history is not None:
        found["epochs"] = over_epochs(history, selected)
    measured = {"bootstrap": None, "seeds": []} | metrics.get("selection_stability", {})
    found |= {"stability": measured, "hindsight": None}
    results = metrics["detectors"]
    columns = block_columns(results)
    auroc = {block: results[name]["average"]["auroc"] for block, name in columns.items()}
    if selected in auroc:
        best = max(auroc, key=auroc.__getitem__)
        gap = auroc[best] - auroc[selected]
        found["hindsight"] = {"block": best, "auroc": auroc[best], "gap": gap}
    return found


def over_epochs(history: History, selected: str) -> dict[str, Any]:
    """Returns in how many of all epochs a block was selected, and since which without a break."""
    chosen = [history.block[position] for position in history.selected]
    since = None
    for epoch, block in zip(history.epoch[::-1], chosen[::-1], strict=True):
        if block != selected:
            break
        since = epoch
    return {"all": len(chosen), "of": chosen.count(selected), "since": since}


def set_rows(metrics: Mapping[str, Any], data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns each set of images: its role, what it was read from, how many, in which groups."""
    facts = metrics.get("data", {})
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
    """Returns a node of the configuration as the call that it makes."""
    if isinstance(node, Mapping) and "_target_" in node:
        given = (
            f"{key}={described(value)}"
            for key, value in node.items()
            if key[0] != "_" and value is not None
        )
        return f"{str(node['_target_']).rpartition('.')[2]}({', '.join(given)})"
    return "" if node is None else str(node)


def figure(path: Path) -> dict[str, Any] | None:
    """Returns a picture as a data address, and its size; None if there is none."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        width, height = image.size
    code = base64.b64encode(path.read_bytes()).decode()
    return {"src": f"data:image/png;base64,{code}", "width": width, "height": height}


def percent(value: float) -> str:
    """Returns a fraction in percent, to one place."""
    return f"{100 * value:.1f}"


def tint(auroc: float) -> str:
    """Returns the colour of a cell: blue above chance, orange below, deeper with the distance."""
    distance = min(1.0, abs(auroc - 0.5) * 2)
    color = "0, 114, 178" if auroc >= 0.5 else "230, 159, 0"
    return f"background: rgba({color}, {0.06 + 0.54 * distance**2:.3f})"


def duration(seconds: float) -> str:
    """Returns seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
