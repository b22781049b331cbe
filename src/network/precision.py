"""The precision in which a network is observed."""

__all__ = ["in_float32"]

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Inside, the network runs in float32, also where cuDNN would round its inputs to TF32."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
