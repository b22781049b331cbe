"""Show, fetch and check the images of a benchmark.

python -m src.data data=paper_cifar10                    shows which sets are missing
python -m src.data data=paper_cifar10 prepare=true       fetches the sets that may be fetched
python -m src.data data=local data_dir=PATH verify=true  decodes all images and writes a report
"""

__all__ = ["main"]

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.data.download import prepare
from src.data.names import readable
from src.data.registry import Known, known
from src.records.atomic import write_whole
from src.records.configs import CONF
from src.records.console import console
from src.records.literal import literal_word


class Part:
    """An image set of a benchmark, which may be missing.

    Attributes:
        name: "train", "id" or the name of an OOD set.
        source: Source of the images; None if it could not be constructed.
        images: Number of images.
        status: "missing", "wrong" or "present".
        problem: Description of the problem and its remedy, as markup; "" if the set is present.
    """

    def __init__(self, name: str, config: DictConfig) -> None:
        self.name, self.config = name, config
        self.look()

    def look(self) -> None:
        """Checks that the set exists and has the expected images."""
        self.source: Any = None
        self.images, self.status, self.problem = 0, "present", ""
        try:
            self.source = instantiate(self.config)
            self.images = len(self.source.pictures()[0] if self.is_read else self.source.load())
        except (OSError, ValueError, InstantiationException) as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) else error
            if not isinstance(cause, OSError | ValueError):
                raise
            self.status, self.problem = "wrong", shown(cause)
            if isinstance(cause, FileNotFoundError):
                self.status, self.problem = "missing", self.where_from or shown(cause)

    def fetch(self, data_dir: Path) -> None:
        """Fetches the set if that is permitted."""
        try:
            if self.source is not None:
                self.source.prepare()
            elif "known" in self.config:
                prepare(known(self.config.known), data_dir / self.config.known)
        except (OSError, ValueError) as error:
            self.problem = shown(error)
        else:
            self.look()

    @property
    def is_read(self) -> bool:
        """Whether existing pictures are read, not computed."""
        from src.data.datasets import PictureSource

        return isinstance(self.source, PictureSource)

    @property
    def state(self) -> str:
        """Digest that changes when the files change."""
        key = self.source.key
        return str(key[1] if key else self.source.sha256)

    @property
    def where_from(self) -> str:
        """Where to get a registered set, as markup; "" for others."""
        if "known" not in self.config:
            return ""
        entry = known(self.config.known)
        how = entry.manual or f"prepare=true fetches it from {hosts(entry)}"
        return f"{entry.title}: {how}\n{entry.terms}"


def shown(text: object) -> str:
    """Returns a text that can be printed anywhere."""
    return readable(str(text))


def hosts(entry: Known) -> str:
    """Returns the servers that provide a set."""
    urls = [url for file in entry.files for url in file.urls]
    return " or ".join(dict.fromkeys(str(urlparse(url).hostname) for url in urls))


def status_table(parts: Iterable[Part], report: Mapping[str, Any]) -> Table:
    """Returns a table of the sets; a report verifies those that have not changed since."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("set", "status", "images", "as the network sees it, or what to do"):
        justify: Any = "right" if column == "images" else "left"
        table.add_column(column, overflow="fold", justify=justify)
    first: dict[str, str] = {}  # problem -> first set with this problem
    for part in parts:
        status, text = part.status, part.problem
        if not text:
            text = shown("; ".join((str(part.source.view), *part.source.notes)))
            if part.is_read and report.get("state", {}).get(part.name) == part.state:
                corrupt = len(report["corrupt"].get(part.name, ()))
                status = f"{corrupt} corrupt" if corrupt else "verified"
        elif first.setdefault(text, part.name) != part.name:
            text = f"as {shown(first[text])}"
        color = "green" if status in ("present", "verified") else "red"
        images = f"{part.images:,}" if part.images else ""
        table.add_row(shown(part.name), Text(status, style=color), images, text)
    return table


def verify(parts: Iterable[Part], path: Path) -> dict[str, Any]:
    """Decodes every image, writes the findings to a JSON file, and returns them."""
    from src.data.verify import contents, findings

    read = [part for part in parts if part.is_read]
    found = findings({part.name: contents(part.source, part.name) for part in read})
    found["state"] = {part.name: part.state for part in read}
    text = json.dumps(found, indent=2) + "\n"
    write_whole(path, lambda partial: partial.write_text(text))
    return found


def read_report(path: Path) -> dict[str, Any]:
    """Returns the report of an earlier verification; an empty one if none has its form."""
    try:
        report = json.loads(path.read_text())
        whole = all(isinstance(report[part], dict) for part in ("state", "corrupt"))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return report if whole else {}


def summary(found: Mapping[str, Any]) -> list[str]:
    """Returns the findings as lines of text, with the first images of each kind."""
    lines = [
        f"{name}: cannot decode {image} ({reason})"
        for name, each in found["corrupt"].items()
        for image, reason in list(each.items())[:3]
    ]
    for name, each in found["duplicates"].items():
        spare = sum(map(len, each)) - len(each)
        lines.append(f"{name}: {spare} images are copies of others, such as {' = '.join(each[0])}")
    for names, pairs in found["overlaps"].items():
        lines.append(f"{names}: {len(pairs)} images in both, such as {' = '.join(pairs[0])}")
    return lines or ["every image can be decoded, none occurs twice, none is both ID and OOD"]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="prepare")
def run(cfg: DictConfig) -> None:
    """Composes the benchmark; exits with 1 if a set that was fetched or verified is incomplete."""
    screen = console(120)
    sources = {"train": cfg.data.train, "id": cfg.data.test, **cfg.data.ood}
    parts = [Part(name, config) for name, config in sources.items()]
    if cfg.prepare:
        for part in parts:
            if part.status == "missing":
                screen.print(f"fetching {shown(part.name)}")
                part.fetch(Path(cfg.data_dir))
    present = [part for part in parts if part.status == "present"]
    path = Path(cfg.out) / "verify.json"
    found = verify(present, path) if cfg.verify and present else None
    report = read_report(path)
    name = HydraConfig.get().runtime.choices["data"]
    title = Text.assemble((name, "bold"), f" in {shown(cfg.data_dir)}")
    screen.print(title, status_table(parts, report))
    if found:
        screen.print(*map(shown, summary(found)), f"report: {shown(path)}", sep="\n")
    if cfg.figures and present:
        from src.data.gallery import gallery

        figure = gallery({part.name: part.source for part in present}, Path(cfg.out))
        screen.print(f"figure: {shown(figure)}")
    if (cfg.prepare or cfg.verify) and (len(present) < len(parts) or (found and found["corrupt"])):
        sys.exit(1)


def main() -> None:
    """Runs the command, or its current spelling if it has `benchmark=`, the former `data=`."""
    parse = OverridesParser.create().parse_override
    sys.argv[1:] = [literal_word(word, parse) for word in sys.argv[1:]]
    spelled = [re.sub("^benchmark=", "data=", word) for word in sys.argv[1:]]
    if spelled == sys.argv[1:]:
        run()
        return
    Console(stderr=True).print("benchmark= is now data=, as in the other commands")
    sys.exit(subprocess.run([sys.executable, "-m", "src.data", *spelled]).returncode)


if __name__ == "__main__":
    main()
