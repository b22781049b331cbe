"""The page of a server: images dropped or chosen, and what is decided about each."""

__all__ = ["Page"]

import secrets
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse

from src.records.template import page_template
from src.service.engine import Row
from src.service.facts import Facts
from src.service.limits import Limits

TEMPLATE = Path(__file__).with_name("page.html.j2")
STEP = 0.001  # of the slider
LARGEST_ALPHA = 0.5  # of the slider


class Page:
    """Renders one self-contained page, with and without results.

    Args:
        facts: Facts of the gate.
        limits: Bounds of a request.
    """

    def __init__(self, facts: Facts, limits: Limits) -> None:
        self.template = page_template(TEMPLATE)
        self.facts, self.limits = facts, limits

    def response(
        self, results: Sequence[tuple[str, Row]], alpha: float, status: int = 200
    ) -> HTMLResponse:
        """Returns the page.

        Args:
            results: Name and row of each image.
            alpha: Rate of false alarms at which to decide.
            status: HTTP status.
        """
        nonce = secrets.token_urlsafe(16)
        smallest = ceil(self.facts.smallest_alpha / STEP) * STEP
        page = self.template.render(
            facts=self.facts,
            limits=self.limits,
            alpha=alpha,
            smallest=round(smallest, 6),
            largest=max(LARGEST_ALPHA, smallest),
            step=STEP,
            nonce=nonce,
            results=[self._result(name, row, alpha) for name, row in results],
        )
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        return HTMLResponse(page, status, {"Content-Security-Policy": policy})

    def _result(self, name: str, row: Row, alpha: float) -> dict[str, Any]:
        """Returns the variables of a result."""
        if row.p_value is None:
            return {"name": name, "row": row, "bars": None}
        return {
            "name": name,
            "row": row,
            "is_ood": row.p_value <= alpha,
            "bars": bars(self.facts.histogram(row.label), row.score),
        }


def bars(histogram: dict[str, Any], score: float | None) -> dict[str, Any]:
    """Returns a histogram as heights within [0, 1], and where a score stands.

    Args:
        histogram: Of `Facts.histogram`.
        score: Score of the image; None if it is not finite, which is lower than all.

    Returns:
        `heights`; `at`, the position of the score within [0, 1]; `beyond`, -1 or 1 if it is below
        or above all calibration scores; and `images`.
    """
    low, high, counts = histogram["low"], histogram["high"], histogram["counts"]
    at = -1.0 if score is None else (score - low) / ((high - low) or 1.0)
    return {
        "heights": [count / max(counts) for count in counts],
        "at": min(1.0, max(0.0, at)),
        "beyond": -1 if at < 0 else 1 if at > 1 else 0,
        "images": histogram["images"],
    }
