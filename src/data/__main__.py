"""Show, fetch and check the images of a benchmark.

python -m src.data benchmark=paper_cifar10                   what is there, where to get the rest
python -m src.data benchmark=paper_cifar10 prepare=true      fetches what may be fetched
python -m src.data benchmark=local data_dir=PATH verify=true decodes all images, writes a report
"""

__all__ = ["main"]

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from src.data.download import prepare
from src.data.registry import Known, known
from src.data.verify import contents, findings


class Row:
    """One set of a benchmark.

    Attributes:
        name: train, id, or that of an OOD set.
        source: None if it is not there.
        problem: what is the matter, and what to do; "" if nothing is.
    """

    def __init__(self, name: str, config: DictConfig) -> None:
        self.name, self.config = name, config
        self.source: Any = None
        self.look()

    def look(self) -> None:
        """Finds out whether the set is there."""
        self.problem, self.images = "", 0
        try:
            self.source = instantiate(self.config)
            if hasattr(self.source, "pictures"):
                self.images = len(self.source.pictures()[0])
            else:
                self.images = len(self.source.load())
        except (FileNotFoundError, ValueError) as error:
            self.problem = self.remedy(error)
        except hydra.errors.InstantiationException as error:
            if not isinstance(error.__cause__, FileNotFoundError | ValueError):
                raise
            self.problem = self.remedy(error.__cause__)

    def remedy(self, error: Exception) -> str:
        """Returns what to do: of a registered set that is not there, where it comes from."""
        if "known" not in self.config or not isinstance(error, FileNotFoundError):
            return str(error)
        entry = known(self.config.known)
        how = entry.manual or f"prepare=true fetches it from {host(entry)}"
        return f"{entry.title}: {how}\n[dim]{entry.terms}[/]"

    def fetch(self, data_dir: Path) -> None:
        """Fetches what is missing, if it may be fetched."""
        try:
            if self.source is not None:
                self.source.prepare()
            elif "known" in self.config:
                prepare(known(self.config.known), data_dir)
        except (OSError, ValueError) as error:
            self.problem = str(error)
        else:
            self.look()


def host(entry: Known) -> str:
    """Returns the servers that have a set."""
    urls = [url for file in entry.files for url in file.urls]
    return " or ".join(dict.fromkeys(str(urlparse(url).hostname) for url in urls))


def status_table(rows: list[Row], corrupt: Mapping[str, Any] | None) -> Table:
    """Returns one row per set; `corrupt` is that of `findings`, if images were looked at."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("set", "status", "images", "as the network sees it, or what to do"):
        table.add_column(
            column, overflow="fold", justify="right" if column == "images" else "left"
        )
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.problem, row.name)
        problem = row.problem if first[row.problem] == row.name else f"as {first[row.problem]}"
        bad = len((corrupt or {}).get(row.name, ()))
        status = "present" if corrupt is None else f"{bad} corrupt" if bad else "verified"
        color = "red" if row.problem or bad else "green"
        table.add_row(
            row.name,
            f"[{color}]{'missing' if not row.images else 'wrong' if row.problem else status}[/]",
            f"{row.images:,}" if row.images else "",
            problem if row.problem else str(getattr(row.source, "view", "as it comes")),
        )
    return table


@hydra.main(version_base="1.3", config_path="../../conf", config_name="prepare")
def main(cfg: DictConfig) -> None:
    """Composes the benchmark; exits with 1 if an image set that was asked for is not whole."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    out, name = Path(cfg.out), HydraConfig.get().runtime.choices["data"]
    rows = [
        Row(part, config)
        for part, config in {"train": cfg.data.train, "id": cfg.data.test, **cfg.data.ood}.items()
    ]
    if cfg.prepare:
        for row in rows:
            if row.problem:
                console.print(f"fetching {row.name}")
                row.fetch(Path(cfg.data_dir))
    present = [row for row in rows if not row.problem]
    found = None
    if cfg.verify:
        found = findings({row.name: contents(row.source, row.name) for row in present})
        out.mkdir(parents=True, exist_ok=True)
        (out / "verify.json").write_text(json.dumps(found, indent=2) + "\n")
    console.print(
        f"[bold]{name}[/] in {cfg.data_dir}", status_table(rows, found and found["corrupt"])
    )
    if found is not None:
        console.print(*summary(found), f"report: {out / 'verify.json'}", sep="\n")
    if cfg.figures:
        from src.data.gallery import gallery

        console.print(f"figure: {gallery({row.name: row.source for row in present}, out)}")
    if (cfg.prepare or cfg.verify) and (len(present) < len(rows) or (found and found["corrupt"])):
        sys.exit(1)


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
    return lines or ["every image can be decoded; no duplicates, none is ID and OOD"]


if __name__ == "__main__":
    sys.argv[1:] = [
        "data=" + argument.removeprefix("benchmark=")
        if argument.startswith("benchmark=")
        else argument
        for argument in sys.argv[1:]
    ]
    main()
