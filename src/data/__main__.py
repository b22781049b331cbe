"""Show, fetch and check the images of a benchmark.

python -m src.data benchmark=paper_cifar10                    what is there, where is the rest
python -m src.data benchmark=paper_cifar10 prepare=true       fetches what may be fetched
python -m src.data benchmark=local data_dir=PATH verify=true  decodes all images, writes a report
"""

__all__ = ["main"]

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from src.data.download import prepare
from src.data.registry import Known, known


class Part:
    """One image set of a benchmark, which may not be there.

    Attributes:
        name: train, id, or that of an OOD set.
        source: the set, as far as it could be opened.
        images: how many there are.
        status: missing, wrong or present.
        problem: what is the matter and what to do; "" if it is present.
    """

    def __init__(self, name: str, config: DictConfig) -> None:
        self.name, self.config = name, config
        self.look()

    def look(self) -> None:
        """Finds out whether the set is there and has the images that it should have."""
        self.source: Any = None
        self.images, self.status, self.problem = 0, "present", ""
        try:
            self.source = instantiate(self.config)
            self.images = len(self.source.pictures()[0] if self.is_read else self.source.load())
        except (FileNotFoundError, ValueError, InstantiationException) as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) else error
            if not isinstance(cause, FileNotFoundError | ValueError):
                raise
            self.status, self.problem = "wrong", str(cause)
            if isinstance(cause, FileNotFoundError):
                self.status, self.problem = "missing", self.where_from or str(cause)

    def fetch(self, data_dir: Path) -> None:
        """Fetches the set, if it may be fetched."""
        try:
            if self.source is not None:
                self.source.prepare()
            elif "known" in self.config:
                prepare(known(self.config.known), data_dir / self.config.known)
        except (OSError, ValueError) as error:
            self.problem = str(error)
        else:
            self.look()

    @property
    def is_read(self) -> bool:
        """Whether the images are read from somewhere, rather than made."""
        return hasattr(self.source, "pictures")

    @property
    def state(self) -> str:
        """A digest that changes when the files do."""
        key = self.source.key
        return str(key[1] if key else self.source.sha256)

    @property
    def where_from(self) -> str:
        """Where a registered set is to be had; "" of others."""
        if "known" not in self.config:
            return ""
        entry = known(self.config.known)
        how = entry.manual or f"prepare=true fetches it from {hosts(entry)}"
        return f"{entry.title}: {how}\n[dim]{entry.terms}[/]"


def hosts(entry: Known) -> str:
    """Returns the servers that have a set."""
    urls = [url for file in entry.files for url in file.urls]
    return " or ".join(dict.fromkeys(str(urlparse(url).hostname) for url in urls))


def status_table(parts: Iterable[Part], report: Mapping[str, Any]) -> Table:
    """Returns one row per set; one that has not changed since a report is verified by it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("set", "status", "images", "as the network sees it, or what to do"):
        justify: Any = "right" if column == "images" else "left"
        table.add_column(column, overflow="fold", justify=justify)
    first: dict[str, str] = {}  # problem -> the set that it was first said of
    for part in parts:
        status, text = part.status, part.problem
        if not text:
            text = str(getattr(part.source, "view", "as it comes"))
            if part.is_read and report.get("state", {}).get(part.name) == part.state:
                corrupt = len(report["corrupt"].get(part.name, ()))
                status = f"{corrupt} corrupt" if corrupt else "verified"
        elif first.setdefault(text, part.name) != part.name:
            text = f"as {first[text]}"
        color = "green" if status in ("present", "verified") else "red"
        images = f"{part.images:,}" if part.images else ""
        table.add_row(part.name, f"[{color}]{status}[/]", images, text)
    return table


def verify(parts: Iterable[Part], path: Path) -> dict[str, Any]:
    """Looks at every image, writes the findings as JSON, and returns them."""
    from src.data.verify import contents, findings

    read = [part for part in parts if part.is_read]
    found = findings({part.name: contents(part.source, part.name) for part in read})
    found["state"] = {part.name: part.state for part in read}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")
    return found


def summary(found: Mapping[str, Any]) -> list[str]:
    """Returns the findings in lines of text: counts, and the first of each kind."""
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
    return lines or ["every image can be decoded, none is there twice, none is ID and OOD"]


@hydra.main(version_base="1.3", config_path="../../conf", config_name="prepare")
def main(cfg: DictConfig) -> None:
    """Composes the benchmark; exits with 1 if what was to be fetched or verified is not whole."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    sources = {"train": cfg.data.train, "id": cfg.data.test, **cfg.data.ood}
    parts = [Part(name, config) for name, config in sources.items()]
    if cfg.prepare:
        for part in parts:
            if part.status == "missing":
                console.print(f"fetching {part.name}")
                part.fetch(Path(cfg.data_dir))
    present = [part for part in parts if part.status == "present"]
    path = Path(cfg.out) / "verify.json"
    found = verify(present, path) if cfg.verify and present else None
    report = json.loads(path.read_text()) if path.exists() else {}
    name = HydraConfig.get().runtime.choices["data"]
    console.print(f"[bold]{name}[/] in {cfg.data_dir}", status_table(parts, report))
    if found:
        console.print(*summary(found), f"report: {path}", sep="\n")
    if cfg.figures and present:
        from src.data.gallery import gallery

        figure = gallery({part.name: part.source for part in present}, Path(cfg.out))
        console.print(f"figure: {figure}")
    if (cfg.prepare or cfg.verify) and (len(present) < len(parts) or (found and found["corrupt"])):
        sys.exit(1)


if __name__ == "__main__":
    for row, argument in enumerate(sys.argv):
        if argument.startswith("benchmark="):  # what other commands call data=
            sys.argv[row] = argument.replace("benchmark", "data", 1)
    main()
