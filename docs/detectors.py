"""Write what the docstrings of the detectors say into docs/detectors.md and conf/detectors/*.yaml.

python -m docs.detectors
"""

import re
import textwrap
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from src import detectors
from src.detectors import Detector
from src.detectors.wrapper import Wrapper

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs/detectors.md"
CONF = REPOSITORY / "conf"
MARK = "Generated from the docstrings by `python -m docs.detectors`"
TABLE = re.compile(rf"(<!-- {MARK} -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = ("detector", "score", "source", "needs", "fitted on", "extra passes")
REFERENCE = re.compile(r'^(?P<authors>[^"]+), "[^"]+", (?P<venue>[^"]*?\d{4}), (?P<url>[^\s;]+\w)')
IMAGES = re.compile(
    r"(Nothing|The images of the wrapped detector"
    r"|(?:All|[\d,]+) ID (?:training|validation) images(?:, with labels)?)\.(?: |$)"
)


def sections(kind: type[Detector]) -> dict[str, str]:
    """Returns title -> text of a docstring's sections; "" is the title of its summary."""
    doc = cleandoc(str(kind.__doc__))
    parts = re.split(r"^([A-Z][a-z ]+):\n", doc, flags=re.MULTILINE)
    summary = parts[0].partition("\n\n")[0]
    texts = [" ".join(text.split()) for text in (summary, *parts[2::2])]
    return dict(zip(("", *parts[1::2]), texts, strict=True))


def first_sentence(text: str) -> str:
    """Returns the text up to the first full stop that ends a sentence."""
    return re.split(r"(?<=\.) (?=[A-Z`\"])", text)[0]


def source(kind: type[Detector]) -> str:
    """Returns the table's cell: the authors, and the venue and year with a link."""
    text = sections(kind)["Source"]
    if found := REFERENCE.match(text):
        return f"{found['authors']}, [{found['venue']}]({found['url']})"
    return first_sentence(text)


def fitted_on(kind: type[Detector]) -> str:
    """Returns what the detector is fitted on, "all ID training images, with labels" for example.

    Raises:
        ValueError: If the section "Fitted on" does not begin in a regular form.
    """
    text = sections(kind)["Fitted on"]
    found = IMAGES.match(text)
    if found is None:
        raise ValueError(
            f"expected {kind.__name__} to be fitted on 'Nothing.', 'The images of the wrapped "
            "detector.' or '<All or a number> ID <training or validation> images[, with labels].'"
            f", got {text!r}; rewrite that section of its docstring"
        )
    return found[1][0].lower() + found[1][1:]


def exported() -> Iterator[type[Detector]]:
    """Yields the classes of detectors that the package exports, by name without case."""
    for name in sorted(detectors.__all__, key=str.lower):
        value = getattr(detectors, name)
        if isinstance(value, type) and value is not Detector:
            yield value


def row(kind: type[Detector]) -> str:
    """Returns a detector's row of the table."""
    part = sections(kind)
    needs, passes = part["Needs"], part.get("Extra passes", "")
    cells = (
        f"`{kind.__name__}`", part[""].rstrip("."), source(kind).rstrip("."),
        needs[0].lower() + needs[1:].rstrip("."), fitted_on(kind),
        first_sentence(passes).rstrip("."),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def page() -> str:
    """Returns docs/detectors.md with the table of all detectors."""
    head = f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|\n"
    table = head + "".join(map(row, exported()))
    return TABLE.sub(lambda found: found[1] + table + found[2], PAGE.read_text())


def nested(detector: Detector) -> Iterator[Detector]:
    """Yields a detector and the detectors within it, from the outside to the inside."""
    yield detector
    if isinstance(detector, Wrapper):
        yield from nested(detector.detector)


def learnt_from(detector: Detector) -> str | None:
    """Returns the images that a detector of a configuration is fitted on; None if it is not."""
    if not detector.is_fitted_on_data:
        return None
    texts = [fitted_on(type(each)) for each in nested(detector)]
    return next(text for text in texts if "wrapped" not in text)


def runs_again(detector: Detector) -> bool:
    """Whether scoring takes more passes than the one that all detectors share."""
    for each in nested(detector):
        text = sections(type(each)).get("Extra passes")
        argument = re.match("With `(.+?)`", text or "")
        while_fitting = text is not None and text.startswith("While fitting")
        if text and not while_fitting and (argument is None or getattr(each, argument[1])):
            return True
    return False


def header(choice: str) -> str:
    """Returns what the head of a configuration says about its detectors."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"detectors={choice}", "run_dir=elsewhere"]).detectors
    columns: dict[str, Detector] = instantiate(config)
    groups: dict[str, list[str]] = {}
    for name, detector in columns.items():
        if images := learnt_from(detector):
            groups.setdefault(images, []).append(name)
    lines = [f"Fitted on {key}: {', '.join(groups[key])}." for key in sorted(groups)]
    again = [name for name, detector in columns.items() if runs_again(detector)]
    if again:
        lines.append(f"With extra passes over each image: {', '.join(again)}.")
    lines.append("No other detector is fitted." if groups else "No detector is fitted.")
    lines[-1] += " No detector sees an OOD image."
    wrapped = [f"{MARK}:", *(part for line in lines for part in textwrap.wrap(line, 96))]
    return "".join(f"# {line}\n" for line in wrapped)


def configuration(path: Path) -> str:
    """Returns a configuration with its generated head, which ends the comments at its top."""
    own, _, rest = path.read_text().partition(f"# {MARK}:\n")
    lines = rest.splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return own + header(path.stem) + "".join(lines)


def documents() -> dict[Path, str]:
    """Returns path -> text of every file that the docstrings reach."""
    paths = sorted((CONF / "detectors").glob("*.yaml"))
    return {PAGE: page()} | {path: configuration(path) for path in paths}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
