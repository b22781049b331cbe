"""Processes of a server end with it, even where it is killed."""

__all__ = ["TetheredServer", "end_with_parent"]

import os
import threading
from multiprocessing import parent_process
from multiprocessing.managers import SyncManager
from typing import Any

from litserve import LitServer


def end_with_parent() -> None:
    """Ends this process, at once, when the process that started it has ended."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


class TetheredServer(LitServer):
    """A server whose manager, the process that holds the queues, also ends with it."""

    def _init_manager(self, num_api_servers: int) -> Any:
        manager = super()._init_manager(num_api_servers)
        manager.end_with_parent()
        return manager


SyncManager.register("end_with_parent", end_with_parent)  # a manager runs what it knows by name
