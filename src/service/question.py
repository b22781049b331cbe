"""Reads a request: the images that it asks about, and how. What is malformed is refused."""

__all__ = ["Question", "Refused", "read_question"]

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from src.service.facts import Facts
from src.service.limits import Limits

KINDS = (
    'a form (multipart/form-data, field "image"), JSON (application/json, "image" or "images" in '
    "base64) or the bytes of one picture (image/*)"
)
OPTIONS = ("alpha", "detector")
LONGEST = 100  # characters of a value that are repeated in an error


class Refused(HTTPException):
    """A request that is refused, with a status and one sentence."""

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, sentence, dict(headers or {}))


@dataclass(frozen=True)
class Question:
    """What a request asks.

    Attributes:
        images: The bytes of each image file, from a stranger.
        names: What each is called in the request; "" if it has no name.
        alpha: Rate of false alarms at which to decide.
    """

    images: tuple[bytes, ...]
    names: tuple[str, ...]
    alpha: float


async def read_question(request: Request, facts: Facts, limits: Limits) -> Question:
    """Returns the question of a request.

    Images come in the request itself. A path or an address is never followed.

    Args:
        request: Request of a stranger.
        facts: Facts of the gate.
        limits: Bounds of a request.

    Raises:
        Refused: If it is malformed, too large, or asks what the gate cannot do.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refused(415, f"expected a body as it is, got {told(encoding)}; send it uncompressed")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    options = dict(_once(request.query_params.multi_items()))
    images: list[tuple[str, bytes]]
    if kind == "multipart/form-data":
        more, images = await _of_form(request, limits)
    elif kind == "application/json":
        more, images = _of_json(await request.body(), limits)
    elif kind.startswith("image/") and kind != "image/svg+xml":
        more, images = {}, [("", await request.body())]
    else:
        raise Refused(415, f"expected {KINDS}, got {told(kind) if kind else 'no content-type'}")
    if twice := sorted(options.keys() & more.keys()):
        raise Refused(400, f"expected {twice[0]} once, got it in the address and in the body")
    alpha = _decided(options | more, facts)
    if not images:
        raise Refused(400, 'expected an image or more, got none; name the field "image"')
    if len(images) == 1 and not images[0][1]:
        raise Refused(400, "expected the bytes of a picture, got none")
    return Question(
        tuple(content for _, content in images), tuple(name for name, _ in images), alpha
    )


def told(value: object) -> str:
    """Returns a value of a stranger as it is repeated in an error: short, in quotes."""
    text = repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def _decided(options: Mapping[str, Any], facts: Facts) -> float:
    """Returns alpha; checks the options."""
    if unknown := sorted(options.keys() - {*OPTIONS}):
        raise Refused(
            400, f"expected no options but {' and '.join(OPTIONS)}, got {told(unknown[0])}"
        )
    detector = options.get("detector", facts.detector)
    if detector != facts.detector:
        raise Refused(
            422,
            f"expected the detector of this gate, {facts.detector}, got {told(detector)}; leave "
            "it out, or make another gate",
        )
    asked = options.get("alpha", facts.alpha)
    try:
        if isinstance(asked, bool) or not isinstance(asked, str | int | float):
            raise ValueError
        alpha = float(asked)
        if not isfinite(alpha):
            raise ValueError
    except (ValueError, OverflowError):
        raise Refused(
            422, f"expected alpha as a number within (0, 1), got {told(asked)}"
        ) from None
    try:
        facts.check_alpha(alpha)
    except ValueError as error:
        raise Refused(422, str(error)) from None
    return alpha


async def _of_form(
    request: Request, limits: Limits
) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """Returns options and images of a multipart form."""
    most = {"max_files": limits.max_images, "max_fields": len(OPTIONS) + 1}
    try:
        async with request.form(**most) as form:
            return await _parts(form)
    except HTTPException as error:
        if isinstance(error, Refused) or error.status_code == 413:
            raise
        if "Too many files" in error.detail:
            raise _too_many(f"more than {limits.max_images}", limits) from None
        raise _no_form(error.detail) from None
    except (ValueError, LookupError, AssertionError) as error:
        raise _no_form(error) from None


async def _parts(form: FormData) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """Returns texts and files of a form."""
    parts = form.multi_items()
    texts = dict(_once([(key, value) for key, value in parts if isinstance(value, str)]))
    if "image" in texts:
        raise Refused(
            400, 'expected a file in the field "image", got text; no path or address is read'
        )
    images = []
    for key, value in parts:
        if isinstance(value, UploadFile):
            if key != "image":
                raise Refused(400, f'expected files in the field "image", got {told(key)}')
            images.append((value.filename or "", await value.read()))
    return {key: value for key, value in texts.items() if value != ""}, images


def _no_form(why: object) -> Refused:
    return Refused(400, f"expected a whole multipart form, got another: {why}")


def _of_json(body: bytes, limits: Limits) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """Returns options and images of a JSON object."""
    try:
        content = json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise Refused(400, "expected JSON, got a text that is nested too deep") from None
    except UnicodeDecodeError:
        raise Refused(400, "expected JSON in UTF-8, got another encoding") from None
    except ValueError as error:
        raise Refused(400, f"expected JSON, got another text: {error}") from None
    if not isinstance(content, dict):
        raise Refused(
            400,
            'expected a JSON object such as {"image": "<base64>"}, got '
            + {list: "a list", str: "a text", type(None): "null"}.get(type(content), "a value"),
        )
    given = [key for key in ("image", "images") if key in content]
    if len(given) != 1:
        raise Refused(400, f'expected either "image" or "images", got {len(given) or "neither"}')
    coded = content.pop(given[0])
    if given == ["image"]:
        coded = [coded]
    if not isinstance(coded, list):
        raise Refused(400, f'expected a list of base64 in "images", got {told(coded)}')
    if len(coded) > limits.max_images:
        raise _too_many(str(len(coded)), limits)
    return content, [("", _decoded(each)) for each in coded]


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _decoded(coded: object) -> bytes:
    try:
        if not isinstance(coded, str):
            raise ValueError
        return b64decode(coded, validate=True)
    except ValueError:
        raise Refused(
            400,
            f"expected the bytes of a picture in base64, got {told(coded)}; no path or address "
            "is read",
        ) from None


def _once(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Returns pairs; refuses a name that comes twice."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise Refused(400, f"expected {told(name)} once, got it {names.count(name)} times")
    return pairs


def _too_many(got: str, limits: Limits) -> Refused:
    return Refused(
        413, f"expected at most {limits.max_images} images in a request, got {got}; send several"
    )
