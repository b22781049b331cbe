"""The processes that share a piece of work: one, or those that torchrun started."""

__all__ = ["Group", "joined"]

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

PATIENCE = timedelta(days=365)  # torchrun ends the others if one dies


class Group(NamedTuple):
    """This process among those that share a piece of work."""

    rank: int = 0
    size: int = 1
    local: int = 0  # number on its machine, and of its GPU

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def agree(self, problem: str | None) -> str | None:
        """Returns the first problem of a process, the same on all; waits for every one."""
        if self.size == 1:
            return problem
        import torch.distributed

        problems: list[str | None] = [None] * self.size
        torch.distributed.all_gather_object(problems, problem)
        return next((each for each in problems if each), None)


@contextmanager
def joined() -> Iterator[Group]:
    """Inside, this process is one of those that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Group()
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Group(
            torch.distributed.get_rank(),
            torch.distributed.get_world_size(),
            int(os.environ["LOCAL_RANK"]),
        )
    finally:
        torch.distributed.destroy_process_group()
