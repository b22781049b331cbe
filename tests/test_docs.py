"""The pages: they build without a warning, their links work, and their commands and code run."""

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from PIL import Image
from playwright.sync_api import Browser

from src.data import ImageData
from src.search.space import split
from tests import REPOSITORY

README = REPOSITORY / "README.md"
COMMUNITY = [REPOSITORY / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
DOCS = REPOSITORY / "docs"
PAGES = [README, *COMMUNITY, *sorted(DOCS.rglob("*.md"))]
ROOMS = sorted(path.parent.name for path in REPOSITORY.glob("src/*/__init__.py"))
CONFIGS = {
    "src.train": "train",
    "src.evaluate": "evaluate",
    "src.deploy": "deploy",
    "src.detect": "detect",
    "src.serve": "serve",
    "src.data": "prepare",
}
CODE = re.compile(r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|&& )(?:python|torchrun|srun)[^&]* -m (src|bench|docs)\b")


class Links(HTMLParser):
    """What a page leads to and loads, and the places in it to which others may lead."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.goals: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.places |= {value for key in ("id", "name") if (value := given.get(key))}
        if tag == "a" and given.get("href"):
            self.goals.append(str(given["href"]))
        for key in ("src", "href"):
            if tag in ("img", "script", "link") and given.get(key):
                self.loaded.append(str(given[key]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Links]:
    return {path: Links(path) for path in site.rglob("*.html")}


def test_every_page_is_built_and_every_link_leads_somewhere(
    site: Path, built: dict[Path, Links]
) -> None:
    for page in DOCS.rglob("*.md"):
        assert site / page.relative_to(DOCS).with_suffix(".html") in built
    for path, page in built.items():
        if path.stem == "404":
            continue
        for goal in page.goals:
            if re.match(r"\w+:", goal):
                continue
            file, _, place = unquote(goal).partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), (path.name, goal)
            assert not place or target not in built or place in built[target].places, goal


def test_the_site_loads_nothing_from_elsewhere(built: dict[Path, Links]) -> None:
    for page in built.values():
        assert page.loaded
        assert not [each for each in page.loaded if re.match(r"(\w+:)?//", each)]


@pytest.mark.parametrize("start", ["index.html", "api/detectors.html"])
def test_the_search_works_from_disk_and_fetches_nothing(
    start: str, site: Path, browser: Browser
) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(0)
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / start).as_uri())
    page.locator(".md-search__input").press_sequentially("spearman")
    page.locator(".md-search-result__link").first.click()
    page.wait_for_url("**/compare.html**")
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    page.close()


@pytest.mark.parametrize("page", [README, *COMMUNITY], ids=lambda page: page.stem)
def test_a_page_beside_the_docs_leads_somewhere(
    page: Path, site: Path, built: dict[Path, Links]
) -> None:
    for goal in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", page.read_text()):
        file, place = goal
        assert (REPOSITORY / file).exists(), goal
        if place:
            html = site / Path(file).relative_to("docs").with_suffix(".html")
            assert place in built[html].places, goal


def test_the_readme_is_short() -> None:
    words = README.read_text().partition("\n## Documentation")[0].split()
    assert len(words) <= 450


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_has_every_public_name_of_a_room(
    room: str, site: Path, built: dict[Path, Links]
) -> None:
    package = importlib.import_module(f"src.{room}")
    shown = built[site / f"api/{room}.html"].places
    exported = getattr(package, "__all__", ["Detector", "FeatureNorm"])  # else what it imports
    for name in exported:
        public = getattr(package, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            assert f"src.{room}.{name}" in shown


def test_the_reference_shows_sections_and_formulas(site: Path) -> None:
    page = (site / "api/detectors.html").read_text()
    for title in ("Source", "Differs", "Fitted on"):
        assert page.count(f"<summary>{title}</summary>") > 10
    assert not re.search(r"<p>(Source|Differs|Fitted on):", page)
    assert "<math" in page
    assert "\\(" not in page


def snippets(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each code block; inline code has the language "inline"."""
    for language, block, inline in CODE.findall(page.read_text()):
        yield ("inline", inline) if inline else (language, block)


def commands() -> Iterator[tuple[str, str]]:
    """Every documented command, on a page or in the head of a file: where, line."""
    for page in PAGES:
        for language, text in snippets(page):
            if language in ("", "bash", "inline"):
                for line in text.replace("\\\n", " ").splitlines():
                    if COMMAND.search(line):
                        yield page.name, line
    for path in (*REPOSITORY.glob("src/**/*.py"), *REPOSITORY.glob("conf/**/*.yaml")):
        for line in path.read_text().splitlines():
            command = re.split(r" {2,}", line.removeprefix("# "))[0]  # what it does comes behind
            if COMMAND.match(command):
                yield str(path.relative_to(REPOSITORY)), command


def words_of(lines: list[str]) -> list[list[str]]:
    """What a shell makes of each line: braces, quotes and variables expanded, comments gone."""
    script = "\n".join(f"printf '%s\\n' {line}\necho '<end>'" for line in lines)
    with TemporaryDirectory() as elsewhere:  # for a line that redirects its output
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=elsewhere
        )
    return [each.split("\n")[:-1] for each in done.stdout.split("<end>\n")[:-1]]


DOCUMENTED = sorted(set(commands()))


def is_left_open(word: str) -> bool:
    """Whether the reader is to put in the name of a choice, or more keys."""
    return word.endswith("...") or re.match(r"(data|net|experiment)=NAME$", word) is not None


@cache
def check_composes(config: str, *overrides: str) -> None:
    """Raises if a group, a choice or a key is not there."""
    compose(config, list(overrides))


def check_overrides(config: str, overrides: list[str]) -> None:
    """Composes what a command asks for, of a sweep the first values, and looks for the others."""
    asked = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            first, *others = override.sweep_string_iterator()
            asked.append(f"{override.key_or_group}={first}")
            group = REPOSITORY / "conf" / str(override.key_or_group)
            for value in others if group.is_dir() else ():
                assert (group / f"{value}.yaml").is_file(), value
        else:
            asked.append(str(override.input_line))
    check_composes(config, *asked)


@pytest.mark.slow
def test_every_documented_command_is_one() -> None:
    assert len(DOCUMENTED) > 100
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        for (page, line), words in zip(
            DOCUMENTED, words_of([line for _, line in DOCUMENTED]), strict=True
        ):
            module, *arguments = words[words.index("-m") + 1 :]
            arguments = [word for word in arguments if not is_left_open(word)]
            try:
                check(module, arguments)
            except (Exception, SystemExit) as error:
                pytest.fail(f"{page}: {line}: {error}")


def check(module: str, arguments: list[str]) -> None:
    """Raises if the command would be refused for its words."""
    if module in CONFIGS:
        overrides = get_args_parser().parse_args(arguments).overrides
        check_overrides(CONFIGS[module], overrides)
    elif module == "src.search":
        command = importlib.import_module("src.search.__main__")
        defaults = yaml.safe_load(command.DEFAULTS.read_text())
        asked = command.parser(defaults).parse_args(arguments)
        fixed, space = split(asked.override, defaults["space"])
        check_composes("train", *fixed, *(f"{key}=1" for key in space))
    elif module.startswith("src."):
        name = f"{module}.__main__" if (REPOSITORY / module.replace(".", "/")).is_dir() else module
        importlib.import_module(name).parser().parse_args(arguments)
    else:
        source = REPOSITORY.joinpath(*module.split(".")).with_suffix(".py").read_text()
        for option in arguments:
            assert not option.startswith("--") or f'"{option}"' in source, option


def test_every_target_of_make_is_one() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^|`|&& )make ([\w./-]+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile.replace("$(VENV)", ".venv"), re.MULTILINE)


def code_of(page: Path, language: str) -> list[str]:
    return [text for kind, text in snippets(page) if kind == language]


@pytest.mark.parametrize(
    "page", ["add_detector", "add_logger", "add_data", "networks", "api/index"]
)
def test_documented_code_runs(page: str, finished_run: Path) -> None:
    (code,) = code_of(DOCS / f"{page}.md", "python")
    names: dict[str, object] = {}
    exec(code.replace("logs/quickstart/TIME", str(finished_run)), names)
    defined = {
        "add_detector": "Margin",
        "add_logger": "JSONLines",
        "add_data": "Squares",
        "networks": "network",
        "api/index": "score",
    }
    assert defined[page] in names


def test_the_code_of_the_readme_scores_an_image() -> None:
    scoring, detector = code_of(README, "python")
    assert len([line for line in scoring.splitlines() if line]) <= 8
    names: dict[str, Any] = {}
    exec(scoring, names)
    assert names["score"].shape == (1,)
    exec(detector, names)
    with torch.no_grad():
        assert names["Margin"]().score(names["network"].observe(names["image"])).shape == (1,)


def test_the_configurations_of_the_readme_build_a_network_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("train/a", "train/b", "test/a", "test/b", "other"):
        Path(folder).mkdir(parents=True)
        Image.new("RGB", (40, 30), "red").save(Path(folder, "1.png"))
    network, data = (instantiate(yaml.safe_load(text)) for text in code_of(README, "yaml"))
    assert len(network.blocks) == 8
    assert isinstance(data, ImageData)
    assert data.num_classes == 2
    assert data.pictures("other", torch.tensor([0])).shape == (1, 3, 32, 32)
