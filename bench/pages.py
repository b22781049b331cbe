"""Write the tables that follow from docs/results into README.md and the pages of docs.

python -m bench.pages

A page holds the place of a table between two comments:

    <!-- table: NAME -->
    <!-- end -->
"""

import re
from pathlib import Path

from bench import (
    cifar10_tables,
    gate_tables,
    imagenet_tables,
    objective_tables,
    peer_tables,
    profile_tables,
    serve_tables,
    speed_tables,
    study_tables,
    watch_tables,
)

ROOT = Path(__file__).parents[1]
MODULES = (
    cifar10_tables, profile_tables, study_tables, imagenet_tables, watch_tables, gate_tables,
    objective_tables, peer_tables, serve_tables, speed_tables,
)  # fmt: skip
TABLES = {name: table for module in MODULES for name, table in module.TABLES.items()}
PLACE = re.compile(r"(?<=<!-- table: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Returns the pages that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def with_tables(page: str) -> str:
    """Returns the text of a page with each of its tables as docs/results has it.

    The place of a table whose results are not there stays as it is.
    """

    def filled(place: re.Match[str]) -> str:
        try:
            return f"{place[1]}{place[2]}\n{TABLES[place[1]]()}\n\n"
        except FileNotFoundError:
            return place[0]

    return PLACE.sub(filled, page)


def main() -> None:
    """Rewrites the pages whose tables differ, and names them."""
    for page in pages():
        text = page.read_text()
        if (written := with_tables(text)) != text:
            page.write_text(written)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
