"""The front door: endpoints that read requests, hand them to the workers and answer."""

__all__ = ["Door"]

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, ResponseBufferItem
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from src.service.engine import Row, Task
from src.service.facts import Facts
from src.service.limits import Limits
from src.service.meters import Meters
from src.service.page import Page
from src.service.question import Question, Refused, read_question
from src.service.stream import Stream

FAILED = "the server failed; its log says why"


class Door(LitSpec):
    """The endpoints of a gate, as LitServe wants them.

    Args:
        facts: Facts of the gate.
        limits: Bounds of a request.
        meters: Counters.
        stream: Watch over all images.
    """

    def __init__(self, facts: Facts, limits: Limits, meters: Meters, stream: Stream) -> None:
        super().__init__()
        self.api_path = "/predict"
        self.facts, self.limits, self.meters, self.watched = facts, limits, meters, stream
        self.page = Page(facts, limits)
        self.add_endpoint("/predict", self.predict, ["POST"])
        self.add_endpoint("/", self.show, ["GET"])
        self.add_endpoint("/", self.answer, ["POST"])
        self.add_endpoint("/metrics", self.metrics, ["GET"])

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a worker needs to know of its door: nothing."""
        return {"_server": None, "_endpoints": [], "api_path": self.api_path}

    async def predict(self, request: Request) -> Response:
        """`POST /predict`: decides about the images of a request, for a program."""
        question = await self.read(request)
        rows = await self.ask(question, draw=False)
        images = [
            {"error": row.error}
            if row.error is not None
            else {
                "class": row.label,
                "probability": row.probability,
                "p_value": row.p_value,
                "score": row.score,
                "decision": decision(row, question.alpha),
            }
            for row in rows
        ]
        content: dict[str, Any] = {
            "images": images,
            "detector": self.facts.detector,
            "alpha": question.alpha,
            "digest": self.facts.digest,
        }
        if all(row.error is not None for row in rows):
            return JSONResponse({"error": rows[0].error} | content, 422)
        return JSONResponse(content)

    async def show(self, request: Request) -> Response:
        """`GET /`: the page."""
        return self.page.response([], self.facts.alpha)

    async def answer(self, request: Request) -> Response:
        """`POST /`: the page with what is decided about the images of its form."""
        try:
            question = await self.read(request)
            rows = await self.ask(question, draw=True)
        except Refused as refused:
            failed = [("", Row(error=str(refused.detail)))]
            return self.page.response(failed, self.facts.alpha, refused.status_code)
        shown = list(zip(question.names, rows, strict=True))
        return self.page.response(shown, question.alpha)

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: the counters, for Prometheus."""
        return Response(self.meters.text(), media_type=CONTENT_TYPE_LATEST)

    async def read(self, request: Request) -> Question:
        """Returns the question of a request that comes in time.

        Raises:
            Refused: If it does not, or is malformed.
        """
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await read_question(request, self.facts, self.limits)
        except TimeoutError:
            raise Refused(
                408, f"expected a request within {self.limits.seconds:g} s, got a part; send again"
            ) from None
        except ClientDisconnect:
            raise Refused(400, "expected a whole request, got a part") from None

    async def ask(self, question: Question, *, draw: bool) -> Sequence[Row]:
        """Returns a row of each image, from a worker.

        Raises:
            Refused: If too many requests wait, or no worker answers in time, or it fails.
        """
        if len(self.response_buffer) >= self.limits.max_waiting:
            raise self._busy("too many requests wait")
        uid = str(uuid.uuid4())
        item = self.response_buffer[uid] = ResponseBufferItem(asyncio.Event())
        self.meters.waiting.set(len(self.response_buffer))
        try:
            task = Task(question.images, draw)
            self.request_queue.put((self.response_queue_id, uid, time.monotonic(), task))
            async with asyncio.timeout(self.limits.seconds):
                await item.event.wait()
        except TimeoutError:
            raise self._busy(f"no answer within {self.limits.seconds:g} s") from None
        finally:
            del self.response_buffer[uid]
            self.meters.waiting.set(len(self.response_buffer))
        rows: Sequence[Row]
        rows, status = item.response
        if status != LitAPIStatus.OK:
            raise Refused(500, FAILED)  # LitServe has told the log
        for row in rows:
            self.meters.count(decision(row, question.alpha), row.p_value)
        self.watched.see(rows)
        return rows

    def _busy(self, why: str) -> Refused:
        return Refused(
            503, f"expected fewer requests at a time, got {why}; try again", {"Retry-After": "1"}
        )


def decision(row: Row, alpha: float) -> str:
    """Returns "OOD" if the p-value is at most alpha, "ID" if not, "error" if there is none."""
    if row.p_value is None:
        return "error"
    return "OOD" if row.p_value <= alpha else "ID"
