"""The page in a real browser: an ID digit, an OOD photograph, a broken file; slider, keyboard."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from src.gate import Gate
from tests.fakes import PageReader
from tests.service.conftest import Running

Decided = Callable[[bytes], str]
Scheme = Literal["light", "dark"]
PATIENCE = 300_000  # milliseconds
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def decided(gate_file: Path) -> Decided:
    """What the gate itself says of a file."""
    gate = Gate.load(gate_file)
    return lambda content: "OOD" if gate(content).is_ood else "ID"  # type: ignore[union-attr]


@contextmanager
def shown(
    browser: Browser, server: Running, width: int = 1280, scheme: Scheme = "light",
    *, script: bool = True,
) -> Iterator[Page]:  # fmt: skip
    """The page in a window of so many CSS pixels, which complains of nothing and asks no other."""
    complaints: list[str] = []
    asked: list[str] = []
    with browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, is_mobile=width < 800,
        java_script_enabled=script,
    ) as context, context.new_page() as page:  # fmt: skip
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(error.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        yield page
        assert page.locator("html").evaluate("each => each.scrollWidth") <= width
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {server.url + "/"}


def file(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def choose(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#image", list(files))


def p_value(page: Page) -> float:
    return float(str(page.locator(".result").first.get_attribute("data-p")))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_digit_a_photograph_and_a_broken_file(
    width: int, scheme: Scheme, server: Running, browser: Browser, digit: bytes,
    photograph: bytes, decided: Decided,
) -> None:  # fmt: skip
    with shown(browser, server, width, scheme) as page:
        choose(
            page, file("digit.png", digit), file("photo.jpg", photograph),
            file("<b>broken</b>.png", digit[:50]),
        )  # fmt: skip
        results = page.locator(".result")
        expect(results).to_have_count(3, timeout=PATIENCE)
        expect(page.locator("#status")).to_have_text("done")
        broken, photo, known = (results.nth(k) for k in range(3))
        expect(known).to_contain_text("digit.png")
        expect(known.locator(".decision")).to_have_text(decided(digit))
        expect(photo.locator(".decision")).to_have_text(decided(photograph))
        expect(broken).to_contain_text("<b>broken</b>.png")
        expect(broken).to_contain_text("expected a picture")
        for each in (known, photo):
            expect(each.locator(".stack img")).to_have_count(2)
            expect(each.locator("svg rect").first).to_be_visible()
        assert page.locator("html").evaluate(
            "() => [...document.images].every(each => each.naturalWidth > 0)"
        )


def test_the_slider_decides_again(
    server: Running, browser: Browser, digit: bytes, decided: Decided
) -> None:
    with shown(browser, server) as page:
        choose(page, file("digit.png", digit))
        decision = page.locator(".decision")
        expect(decision).to_have_text(decided(digit))
        p = p_value(page)
        smallest = float(str(page.locator("#alpha").get_attribute("min")))
        assert smallest >= 1 / 101
        page.locator("#alpha").fill("0.5")
        expect(page.locator("#shown")).to_have_text("50.0 %")
        expect(decision).to_have_text("OOD" if p <= 0.5 else "ID")
        page.locator("#alpha").focus()
        page.keyboard.press("Home")
        expect(decision).to_have_text("OOD" if p <= smallest else "ID")


def test_it_works_with_the_keyboard_alone(server: Running, browser: Browser, digit: bytes) -> None:
    with shown(browser, server) as page:
        focused = "() => document.activeElement.id || document.activeElement.tagName"
        order = []
        for _ in range(4):
            page.keyboard.press("Tab")
            order.append(page.evaluate(focused))
        assert order == ["image", "BUTTON", "alpha", "heat"]
        choose(page, file("digit.png", digit))
        expect(page.locator(".heat")).to_be_visible()
        page.keyboard.press("Space")
        expect(page.locator(".heat")).to_be_hidden()


def test_an_image_may_be_pasted(server: Running, browser: Browser, digit: bytes) -> None:
    paste = """content => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(content)], "pasted.png", {type: "image/png"}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
    }"""
    with shown(browser, server) as page:
        page.evaluate(paste, list(digit))
        expect(page.locator(".result h2")).to_have_text("pasted.png")


@pytest.mark.parametrize("width", [360, 1280])
def test_without_javascript_a_form_gives_the_same_page_with_the_result(
    width: int, server: Running, browser: Browser, digit: bytes, decided: Decided
) -> None:
    with shown(browser, server, width, script=False) as page:
        choose(page, file("digit.png", digit))
        page.get_by_role("button", name="Decide").click()
        expect(page.locator(".result")).to_have_count(1, timeout=PATIENCE)
        expect(page.locator(".decision")).to_have_text(decided(digit))
        choose(page, file("broken.png", digit[:40]))
        page.get_by_role("button", name="Decide").click()
        expect(page.locator(".decision")).to_have_text("no decision")


def test_its_policy_lets_nothing_in(server: Running) -> None:
    answer = server.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    nonce = str(re.search(r"script-src 'nonce-([^']+)'", policy)[1])  # type: ignore[index]
    assert nonce not in server.get("/").text
    reader = PageReader(answer.text.replace(chr(0), ""))
    scripts = [given for tag, given in reader.elements if tag in ("script", "style")]
    assert [given["nonce"] for given in scripts] == [nonce] * 2
    assert not [given for _, given in reader.elements if "style" in given or "onclick" in given]
