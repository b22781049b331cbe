"""Processes of a server end with it, even where it is killed."""

__all__ = ["end_with_parent"]

import os
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """Ends this process, at once, when the process that started it has ended."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
