"""Weights in the safetensors format: a bounded JSON header, then the bytes of the tensors."""

__all__ = ["is_safetensors", "read_safetensors"]

import json
from math import prod
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

LARGEST_HEADER = 2_000_000  # bytes; each tensor takes about 100 of them
MOST_SIDES = 16  # of a tensor
LENGTH = 8  # bytes that hold the length of the header
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class Entry(NamedTuple):
    """Where a tensor begins and ends in a file, and what it is."""

    begin: int
    end: int
    name: str
    dtype: torch.dtype
    shape: list[int]


def is_safetensors(file: BinaryIO) -> bool:
    """Whether a file begins as one, whatever its name; it is at its start before and after."""
    start = file.read(LENGTH + 1)
    file.seek(0)
    length = int.from_bytes(start[:LENGTH], "little")
    return start[LENGTH:] == b"{" and length <= LARGEST_HEADER


def read_safetensors(file: BinaryIO) -> dict[str, Tensor]:
    """Returns the tensors of a file that is at its start.

    No tensor is made before the whole header is checked: the tensors must fill the rest of the
    file without gap or overlap, so that none takes more memory than its bytes in the file.

    Raises:
        Exception: If the header does not describe the file; of what type depends on the fault.

    Source:
        https://huggingface.co/docs/safetensors, "Format".
    """
    length = int.from_bytes(file.read(LENGTH), "little")
    header = json.loads(file.read(min(length, LARGEST_HEADER)))
    header.pop("__metadata__", None)
    entries = sorted(_entry(name, value) for name, value in header.items())
    size = file.seek(0, 2) - LENGTH - length
    bounds = [0, *(entry.end for entry in entries)]
    if [*(entry.begin for entry in entries), size] != bounds:
        raise ValueError("its tensors do not fill the file")
    file.seek(LENGTH + length)
    return {entry.name: _tensor(file, entry) for entry in entries}


def _entry(name: str, value: Any) -> Entry:
    """Returns an entry of the header, after a check of its types and sizes."""
    begin, end = value["data_offsets"]
    dtype, shape = TYPES[value["dtype"]], value["shape"]
    numbers = [begin, end, *shape]
    if len(shape) > MOST_SIDES or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers):
        raise ValueError(f"{name[:80]!r} has no size")
    if prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"{name[:80]!r} has another size than its shape")
    return Entry(begin, end, name, dtype, shape)


def _tensor(file: BinaryIO, entry: Entry) -> Tensor:
    """Returns the tensor whose bytes come next."""
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    file.readinto(tensor.flatten().view(torch.uint8).numpy())  # type: ignore[attr-defined]
    return tensor
