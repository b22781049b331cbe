"""Decide about many images, with a gate, whether each is out-of-distribution.

python -m src.detect gate=gate.pt images=photos            a row for each image: detections.csv
python -m src.detect gate=gate.pt images=photos page=detections.html    and a page to look at
python -m src.detect gate=gate.pt images=photos resume=true             goes on after a kill
python -m src.detect gate=gate.pt images=photos fdr=0.1    decides about all images together, too
python -m src.detect gate=gate.pt images=photos watch=watch.csv         has the stream changed?
python -m src.detect gate=gate.pt images=- output=-        from a pipe to a pipe
torchrun --nproc-per-node=2 -m src.detect gate=gate.pt images=photos    shared by two processes
"""

__all__ = ["detect", "main"]

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import hydra
from omegaconf import DictConfig

from src.records.configs import CONF
from src.run.command_line import literally

if TYPE_CHECKING:
    from src.gate.detections import Detections
    from src.gate.gate import Gate
    from src.gate.inputs import Images
    from src.gate.processes import Group
    from src.gate.rows import Row

T = TypeVar("T")
NOTHING, REFUSED, FLAGGED, INTERRUPTED = 1, 2, 3, 130  # exit codes
begun: list[DictConfig] = []  # empty as long as Hydra reads the command line


def detect(cfg: DictConfig) -> int:
    """Decides about the images, and returns the exit code.

    Raises:
        SystemExit: If something is refused, or cannot be written; stderr says what.
    """
    from src.gate.processes import Group, joined

    with joined() as group:
        gate, images, output = attempt(group, REFUSED, lambda: prepared(cfg, group))
        missing = len(images) - len(output.kept())
        start = time.monotonic()
        attempt(group, NOTHING, lambda: write_rows(cfg, group, gate, images, output))
    if not group.leads:
        return 0
    rows = attempt(Group(), NOTHING, output.complete)
    seconds = time.monotonic() - start
    if cfg.watch is not None:
        attempt(Group(), NOTHING, lambda: watch(cfg, gate, rows))
    if cfg.page is not None:
        attempt(Group(), NOTHING, lambda: draw(cfg, gate, images, rows))
    return told(rows, missing, seconds, fail_on_ood=cfg.fail_on_ood)


def prepared(cfg: DictConfig, group: "Group") -> "tuple[Gate, Images, Detections]":
    """Returns gate, images and output; refuses all that can be refused before the work."""
    check(cfg, group)
    from src.gate import Gate
    from src.gate.deciding import check_pictures, device_of
    from src.gate.detections import Detections
    from src.gate.inputs import find_images

    device = device_of(str(cfg.device), group.local)
    images = find_images(str(cfg.images))
    gate = Gate.load(str(cfg.gate), trust=cfg.trust).to(device)
    check_pictures(gate)
    facts = {
        "gate": gate.digest,
        "detector": gate.name,
        "alpha": gate.alpha,
        "classify": cfg.classify,
        "batch_size": cfg.batch_size,
        "device": device.type,
    }
    output = Detections(str(cfg.output), facts, images.names, rate=cfg.fdr)
    if group.leads:
        output.begin(resume=cfg.resume, shared=group.size > 1)
    return gate, images, output


def check(cfg: DictConfig, group: "Group") -> None:
    """Refuses values of the command line that mean nothing."""
    kinds = {
        "a text": (str, ("gate", "images", "output")),
        "true or false": (bool, ("resume", "classify", "fail_on_ood", "trust")),
    }
    for name, (kind, keys) in kinds.items():
        for key in keys:
            if not isinstance(cfg[key], kind):
                raise ValueError(
                    f"expected {key}=<{name}>, got {cfg[key]}; see python -m src.detect --help"
                )
    size = cfg.batch_size
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"expected batch_size of at least 1, got {size}; 64 is usual")
    if cfg.images == "-" and group.size > 1:
        raise ValueError(
            "expected images that every process can find, got standard input; write the paths to "
            "a list: images=list.txt"
        )
    if cfg.watch is not None:
        if not isinstance(cfg.delta, float) or not 0 < cfg.delta < 1:
            raise ValueError(
                "expected delta, the probability of a false alarm, within (0, 1), got "
                f"{cfg.delta}; 0.01 is usual"
            )
        if not cfg.resume and Path(str(cfg.watch)).exists():
            raise FileExistsError(
                f"expected a new file, got watch={cfg.watch}, which is there; name another"
            )
    if cfg.page is not None:
        from src.gate.detect_page import check_page

        check_page(Path(str(cfg.page)), may_replace=cfg.resume)


def write_rows(
    cfg: DictConfig, group: "Group", gate: "Gate", images: "Images", output: "Detections"
) -> None:
    """Decides about this process's share of the images that have no row yet."""
    from tqdm import tqdm

    from src.gate.deciding import decide, missing_batches

    batches = missing_batches(images.names, output.kept(), cfg.batch_size)
    share = batches[group.rank :: group.size]
    bar = tqdm(
        total=sum(map(len, share)), desc="deciding", unit=" images", dynamic_ncols=True,
        leave=False, disable=not (group.leads and sys.stderr.isatty()),
    )  # fmt: skip
    with bar, output.writing(group.rank if group.size > 1 else None) as write:
        for rows in decide(gate, images, share, classify=cfg.classify):
            write(rows)
            bar.update(len(rows))


def watch(cfg: DictConfig, gate: "Gate", rows: "list[Row]") -> None:
    """Writes the watch over the images, and says whether it raised the alarm."""
    from src.gate.watching import watched_rows

    found = watched_rows(Path(str(cfg.watch)), gate.calibration, rows, delta=cfg.delta)
    say("no alarm" if found is None else f"alarm: the stream has changed, at {found.path}")


def draw(cfg: DictConfig, gate: "Gate", images: "Images", rows: "list[Row]") -> None:
    """Writes the page."""
    from src.gate.detect_page import write_page

    write_page(Path(cfg.page), gate, images, rows, output=str(cfg.output), rate=cfg.fdr)


def told(rows: "list[Row]", fresh: int, seconds: float, *, fail_on_ood: bool) -> int:
    """Says what was found, and returns the exit code."""
    flagged, broken = sum(bool(row.is_ood) for row in rows), sum(bool(row.error) for row in rows)
    kept = f" ({len(rows) - fresh} of them before)" if fresh < len(rows) else ""
    found = [row.discovery for row in rows if row.discovery is not None]
    say(
        f"{len(rows)} image{'s' * (len(rows) != 1)}{kept}, {flagged} flagged as OOD, "
        + (f"{sum(found)} discoveries, " if found else "")
        + f"{broken} broken, {seconds:.1f} s, {fresh / seconds:.1f} images per second"
    )
    if broken == len(rows):
        return NOTHING
    return FLAGGED if fail_on_ood and flagged else 0


def attempt(group: "Group", code: int, work: Callable[[], T]) -> T:
    """Returns what `work` returns; if it fails in a process, all of them end with this code."""
    result, problem = [], None
    try:
        result.append(work())
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem := group.agree(problem):
        if group.leads:
            say(problem)
        sys.exit(code)
    return result[0]


def say(text: str) -> None:
    """Writes a line to stderr, as rows may go to stdout."""
    sys.stderr.write(f"{text}\n")


@literally
@hydra.main(version_base="1.3", config_path=str(CONF), config_name="detect")
def run(cfg: DictConfig) -> None:
    """Composes the configuration and runs it."""
    begun.append(cfg)
    sys.exit(detect(cfg))


def main() -> None:
    """Runs the command; what Hydra cannot read ends it as any other bad argument."""
    try:
        run()
    except KeyboardInterrupt:
        say("interrupted; resume=true goes on behind the last row that was written")
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        sys.exit(REFUSED if end.code == 1 and not begun else end.code)


if __name__ == "__main__":
    main()
