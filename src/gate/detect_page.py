"""The HTML page of a detection: p-values, least and most typical images, broken files."""

__all__ = ["check_page", "write_page"]

import os
from collections.abc import Mapping, Sequence
from heapq import nlargest, nsmallest
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from src.gate.gate import Gate
from src.gate.heat import Pixels, deciding_block, heat, heat_maps, is_small, photo
from src.gate.inputs import Images
from src.gate.rows import Row
from src.records.atomic import write_whole
from src.records.template import page_template

TEMPLATE = Path(__file__).with_name("detect.html.j2")
BINS = 20  # of the histogram
MOST_IMAGES = 12  # at each end
MOST_BROKEN = 50  # files that are named


def check_page(path: Path, *, may_replace: bool) -> None:
    """Refuses a page that could not be written.

    Raises:
        FileExistsError: If it is there and may not be replaced.
        ValueError: If its name does not end in .html, or its folder cannot be written.
    """
    if path.suffix.lower() != ".html":
        raise ValueError(f"expected a page that ends in .html, got {path}; correct page=")
    if path.exists() and not may_replace:
        raise FileExistsError(
            f"expected a new page, got {path}, which is there; name another, or set resume=true"
        )
    folder = next(each for each in path.absolute().parents if each.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(
            f"expected a page in a folder that can be written, got {path}; correct page="
        )


def write_page(
    path: Path,
    gate: Gate,
    images: Images,
    rows: Sequence[Row],
    *,
    output: str,
    rate: float | None = None,
) -> None:
    """Writes one self-contained page.

    Of all images, only the few that are shown are opened, again.

    Args:
        path: Path of the page.
        gate: Gate that decided.
        images: Images, in the order of the rows.
        rows: What was decided.
        output: Where all rows are, to be told.
        rate: False discovery rate; None if there are no discoveries.

    Raises:
        OSError: If it cannot be written.
    """
    variables = content(gate, images, rows, output=output, rate=rate)
    page = page_template(TEMPLATE).render(variables)
    write_whole(path, lambda partial: partial.write_text(page, encoding="utf-8"))


def content(
    gate: Gate, images: Images, rows: Sequence[Row], *, output: str, rate: float | None
) -> dict[str, Any]:
    """Returns the variables of the template."""
    decided = [row for row in rows if row.p_value is not None]
    broken = [row for row in rows if row.error is not None]
    ends = {
        "least": nsmallest(MOST_IMAGES, decided, key=_typicality),
        "most": nlargest(MOST_IMAGES, decided, key=_typicality),
    }
    block = deciding_block(gate)
    return {
        "images": len(rows),
        "flagged": sum(bool(row.is_ood) for row in rows),
        "discoveries": None if rate is None else sum(bool(row.discovery) for row in rows),
        "rate": rate,
        "broken": broken[:MOST_BROKEN],
        "broken_count": len(broken),
        "alpha": gate.alpha,
        "bound": gate.calibration.bound,
        "known": len(gate.calibration.known),
        "detector": gate.name,
        "digest": gate.digest,
        "block": block,
        "bars": histogram([row.p_value for row in decided if row.p_value is not None]),
        "ends": drawn(gate, images, ends, block),
        "output": "standard output" if output == "-" else output,
    }


def _typicality(row: Row) -> tuple[float, float, str]:
    """Sorts rows; the score tells apart what is beyond all calibration images."""
    return (row.p_value or 0.0, -np.inf if row.score is None else row.score, row.path)


def histogram(p: Sequence[float]) -> list[int]:
    """Returns the number of p-values in each bin (k / 20, (k + 1) / 20]."""
    counts = [0] * BINS
    for each in p:
        counts[ceil(round(each * BINS, 9)) - 1] += 1
    return counts


def drawn(
    gate: Gate, images: Images, ends: Mapping[str, Sequence[Row]], block: str
) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of each end with photo and heat map; all heat maps share one scale."""
    position = {name: row for row, name in enumerate(images.names)}
    shown = {row.path: row for rows in ends.values() for row in rows}
    opened = {path: _pixels(gate, images, position[path]) for path in shown}
    pixels = {path: each for path, each in opened.items() if each is not None}
    found = dict(zip(pixels, heat_maps(gate, list(pixels.values()), block), strict=True))
    scale = max((float(each.max()) for each in found.values()), default=0.0) or 1.0
    pictures = {
        path: {"photo": photo(each), "heat": heat(found[path] / scale), "small": is_small(each)}
        for path, each in pixels.items()
    }
    return {
        end: [row._asdict() | pictures.get(row.path, {"photo": None}) for row in rows]
        for end, rows in ends.items()
    }


def _pixels(gate: Gate, images: Images, row: int) -> Pixels | None:
    """Returns (C, H, W) pixels as the network sees them; None if the image is gone."""
    try:
        with images.open(row, gate.picture.max_pixels) as opened:
            return gate.picture.pixels(opened)
    except Exception:  # decoders raise many types, which all mean a broken file
        return None
