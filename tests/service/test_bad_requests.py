"""Every malformed request gets a 4xx and one clear sentence, and the server goes on."""

import http.client
import json
import re
import struct
import zlib
from base64 import b64encode
from io import BytesIO
from typing import Any
from zipfile import ZipFile

import pytest
from PIL import Image

from tests.service.conftest import Running

FORM = "multipart/form-data; boundary=x"
PNG_TYPE = {"Content-Type": "image/png"}
JSON_TYPE = {"Content-Type": "application/json"}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def png_header(width: int, height: int) -> bytes:
    """The file of a picture that claims a size, with hardly any data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        summed = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", summed)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )


def gif_bomb() -> bytes:
    """A GIF whose screen is 60,000 x 60,000 pixels, with frames."""
    frames = [Image.new("P", (8, 8), k) for k in range(20)]
    frames[0].save(file := BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    content = bytearray(file.getvalue())
    content[6:10] = struct.pack("<HH", 60000, 60000)
    return bytes(content)


def archive() -> bytes:
    with ZipFile(file := BytesIO(), "w") as packed:
        packed.writestr("image.png", b"no picture")
    return file.getvalue()


def jpeg(side: int = 64) -> bytes:
    Image.effect_noise((side, side), 50).save(file := BytesIO(), "JPEG")
    return file.getvalue()


def coded(content: bytes) -> str:
    return b64encode(content).decode()


def form(*parts: tuple[str, str], end: str = "--x--\r\n") -> bytes:
    """A multipart body of parts: the rest of their Content-Disposition, and their content."""
    each = [
        f"--x\r\nContent-Disposition: form-data; {name}\r\n\r\n{text}\r\n" for name, text in parts
    ]
    return ("".join(each) + end).encode()


def body(data: bytes | str, kind: str | None = None, path: str = "/predict") -> dict[str, Any]:
    headers = {} if kind is None else {"Content-Type": kind}
    return {"path": path, "data": data, "headers": headers}


def of_json(content: object) -> dict[str, Any]:
    return body(json.dumps(content), "application/json")


def picture(content: bytes, name: str = "it.png") -> dict[str, Any]:
    return {"files": {"image": (name, content)}}


PICTURE = jpeg()
PATH = "/etc/passwd"
URL = "http://127.0.0.1/image.png"
# name -> what is sent, the status, and what is said
MALFORMED: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty body": (body(b"", "image/png"), 400, "got none"),
    "no body and no type": (body(b""), 415, "got no content-type"),
    "empty form": (body(form(), FORM), 400, "expected"),
    "zero bytes": (picture(b""), 400, "got none"),
    "zero bytes of two": (
        {"files": [("image", b""), ("image", b"")]}, 422, "expected the bytes of a picture",
    ),
    "text": (body("hello", "text/plain"), 415, "got 'text/plain'"),
    "form in the address's code": (
        body("image=1", "application/x-www-form-urlencoded"), 415, "urlencoded",
    ),
    "XML": (body("<a/>", "application/xml"), 415, "got 'application/xml'"),
    "compressed body": (
        {"data": zlib.compress(PICTURE), "headers": PNG_TYPE | {"Content-Encoding": "deflate"}},
        415, "uncompressed",
    ),
    "truncated JPEG": (picture(PICTURE[:-300]), 422, "expected a picture that can be decoded"),
    "head of a JPEG": (picture(PICTURE[:20]), 422, "expected a picture"),
    "truncated PNG, raw": (body(png_header(24, 24)[:40], "image/png"), 422, "expected a picture"),
    "PNG of 60,000 x 60,000": (
        picture(png_header(60000, 60000)), 422, "expected at most 50000000 pixels|Image size",
    ),
    "PNG of a side of 0": (picture(png_header(0, 24)), 422, "expected a picture"),
    "PNG that is long and thin": (picture(png_header(2**31 - 1, 1)), 422, "expected|Image size"),
    "animated GIF of 60,000 x 60,000": (picture(gif_bomb()), 422, "pixels|Image size"),
    "SVG": (picture(SVG), 422, "expected a picture in JPEG"),
    "SVG, raw": (body(SVG, "image/svg+xml"), 415, "svg"),
    "HTML called .png": (picture(b"<html><body>no</body></html>"), 422, "got none of these"),
    "PDF": (picture(b"%PDF-1.7 no"), 422, "got none of these"),
    "PostScript": (picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), 422, "none of"),
    "ZIP": (picture(archive()), 422, "got none of these"),
    "noise": (picture(bytes(range(256)) * 40), 422, "got none of these"),
    "path as an image": (
        body(form(('name="image"', PATH)), FORM), 400, "got text; no path or address is read",
    ),
    "address as an image": (
        body(form(('name="image"', URL)), FORM), 400, "got text; no path or address is read",
    ),
    "path in JSON": (of_json({"image": PATH}), 400, "no path or address is read"),
    "address in JSON": (of_json({"image": URL}), 400, "no path or address is read"),
    "path in the address": (
        body(PICTURE, "image/jpeg", f"/predict?image={PATH}"), 400, "no options but alpha",
    ),
    "path as the content of a file": (picture(PATH.encode()), 422, "got none of these"),
    "other field": ({"files": {"picture": PICTURE}}, 400, "in the field \"image\", got 'picture'"),
    "unknown option": (picture(PICTURE) | {"data": {"mode": "fast"}}, 400, "got 'mode'"),
    "form without a boundary": (
        body(form(('name="image"', "x")), "multipart/form-data"), 400, "multipart form",
    ),
    "form of another boundary": (
        body(form(('name="image"', "x")), "multipart/form-data; boundary=y"), 400, "form|got none",
    ),
    "form that is cut": (
        body(form(('name="image"; filename="a"', "x"), end="")[:-20], FORM), 4, "expected",
    ),
    "form without names": (body(form(('filename="a"', "x")), FORM), 400, "multipart form"),
    "too many fields": (
        body(form(*[(f'name="a{k}"', "1") for k in range(9)]), FORM), 400, "multipart form",
    ),
    "10,000 images": (
        {"files": [("image", b"x")] * 10000}, 413, "expected at most 9 images .* more than 9",
    ),
    "10,000 images in JSON": (of_json({"images": [""] * 10000}), 413, "got 10000"),
    "huge body": (body(b"0" * 3_000_000, "image/png"), 413, "at most 2000000 bytes"),
    "huge form": (picture(b"0" * 3_000_000), 413, "at most 2000000 bytes"),
    "huge body in pieces": (
        {"data": (b"0" * 1000 for _ in range(2500)), "headers": PNG_TYPE}, 413, "at most 2000000",
    ),
    "no JSON": (body('{"image": ', "application/json"), 400, "expected JSON"),
    "empty JSON": (body("", "application/json"), 400, "expected JSON"),
    "JSON that is no UTF-8": (body(b'{"a": "\xff"}', "application/json"), 400, "expected JSON"),
    "deep JSON": (body("[" * 200_000, "application/json"), 400, "nested too deep"),
    "deep image": (of_json({"image": [[[["x"]]]]}), 400, "in base64"),
    "JSON list": (of_json([coded(PICTURE)]), 400, "got a list"),
    "JSON null": (of_json(None), 400, "got null"),
    "JSON without an image": (of_json({"picture": "x"}), 400, 'either "image" or "images"'),
    "JSON of both": (of_json({"image": "", "images": []}), 400, "got 2"),
    "JSON of no images": (of_json({"images": []}), 400, "got none"),
    "JSON of an object of images": (of_json({"images": {"a": "b"}}), 400, "expected a list"),
    "invalid base64": (of_json({"image": "%%%"}), 400, "in base64, got '%%%'"),
    "base64 of no picture": (of_json({"image": coded(b"no")}), 422, "got none of these"),
    "number as an image": (of_json({"image": 7}), 400, "in base64, got 7"),
    "NaN in JSON": (
        body(f'{{"image": "{coded(PICTURE)}", "alpha": NaN}}', "application/json"), 400, "NaN",
    ),
    "negative alpha": (picture(PICTURE) | {"data": {"alpha": "-1"}}, 422, r"within \(0, 1\)"),
    "alpha of 0": (picture(PICTURE) | {"data": {"alpha": "0"}}, 422, r"within \(0, 1\)"),
    "alpha of 2": (of_json({"image": coded(PICTURE), "alpha": 2}), 422, r"within \(0, 1\)"),
    "alpha of NaN": (picture(PICTURE) | {"data": {"alpha": "NaN"}}, 422, r"within \(0, 1\)"),
    "alpha too small": (
        body(PICTURE, "image/jpeg", "/predict?alpha=1e-9"), 422, "calibrate on 999999999 images",
    ),
    "alpha that is no number": (
        of_json({"image": coded(PICTURE), "alpha": {"a": 1}}), 422, "alpha as a number",
    ),
    "alpha that is true": (of_json({"image": coded(PICTURE), "alpha": True}), 422, "as a number"),
    "alpha of many digits": (
        of_json({"image": coded(PICTURE), "alpha": 10**400}), 422, "alpha as a number",
    ),
    "alpha twice": (
        body(PICTURE, "image/jpeg", "/predict?alpha=0.1&alpha=0.2"), 400, "'alpha' once",
    ),
    "alpha in two places": (
        picture(PICTURE) | {"path": "/predict?alpha=0.1", "data": {"alpha": "0.1"}}, 400, "once",
    ),
    "unknown detector": (
        picture(PICTURE) | {"data": {"detector": "energy"}}, 422, "this gate, featurenorm, got",
    ),
    "detector of code": (
        of_json({"image": coded(PICTURE), "detector": "{{7*7}}"}), 422, r"got '\{\{7\*7\}\}'",
    ),
    "unknown path": (body(PICTURE, "image/png", "/nowhere"), 404, "expected the path"),
    "path above": (body(PICTURE, "image/png", "/predict/../../etc"), 404, "expected the path"),
    "wrong method of a known path": (body(PICTURE, "image/png", "/info"), 405, "got POST"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_it_is_refused_in_one_sentence(name: str, server: Running) -> None:
    sent, status, says = MALFORMED[name]
    answer = server.post(**sent)
    assert answer.status_code // 100 == 4, answer.text
    assert answer.status_code == status or status == 4
    assert answer.headers["Content-Type"] == "application/json"
    said = answer.json()["error"]
    assert re.search(says, said), said
    assert "\n" not in said
    assert len(said) < 400
    assert "0x" not in said  # no address of an object
    assert "root:" not in answer.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict"), ("DELETE", "/"), ("PUT", "/x")])
def test_another_method_is_refused(method: str, path: str, server: Running) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    assert answer.status in (404, 405)
    assert json.loads(answer.read())["error"].startswith("expected")


def test_the_page_shows_what_is_wrong(server: Running) -> None:
    broken = picture(b"<script>alert(1)</script>", "<script>.png")
    for sent, status in ((broken, 200), ({"data": b"x"}, 415)):
        answer = server.post("/", **sent)
        assert answer.status_code == status
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "no decision" in answer.text
        assert "<script>alert" not in answer.text
        assert "<script>.png" not in answer.text


def test_a_length_that_is_no_number_is_refused(server: Running) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", "-5")
    connection.endheaders()
    assert connection.getresponse().status == 400


def test_after_all_this_it_answers_and_nothing_was_its_own_fault(
    server: Running, digit: bytes
) -> None:
    assert server.post(files={"image": digit}).status_code == 200
    assert 'code="5' not in server.get("/metrics").text
