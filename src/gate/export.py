"""Exports a whole gate, from the pixels to the decision, for runtimes without this package."""

__all__ = ["FORMATS", "Exported", "asked_formats", "export_gate", "traced"]

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from src.gate.agreement import Agreement, Said, agreement, other_sizes
from src.gate.gate import Gate, Judgement
from src.gate.resize import Resize
from src.network.precision import in_float32
from src.records.atomic import write_whole

INPUT = {0: "batch", 2: "height", 3: "width"}  # dimensions of the image that may vary
PACKAGES = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
FORMATS = tuple(PACKAGES)


class Exported(nn.Module):
    """A gate as one function of pixels, with the calibration as a constant in it.

    Args:
        gate: Gate of square images in grey or RGB.
        classify: Whether to give label and probability. If not, nothing of the network behind the
            block that decides is left in the exported graph.

    Raises:
        ValueError: If the network's images have no form of pictures.
    """

    def __init__(self, gate: Gate, *, classify: bool = True) -> None:
        super().__init__()
        channels, height, width = gate.picture.shape
        if channels not in (1, 3) or height != width:
            raise ValueError(
                "expected a gate of square images in grey or RGB, got one of shape "
                f"{gate.picture.shape}, to which no picture can be resized; use gate.pt"
            )
        self.gate = gate
        self.resize = Resize(height, gate.picture.short_side)
        skipped = () if classify else ("label", "probability")
        self.outputs = tuple(name for name in Judgement._fields if name not in skipped)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Returns the outputs, each (B,) as in `Judgement`.

        Args:
            image: (B, C, H, W) uint8 pixels of any size, with the channels of the network.
        """
        judged = self.gate.judgement(self.resize(image).float() / 255)._asdict()
        return {name: judged[name] for name in self.outputs}


def asked_formats(asked: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the formats that a command asks for.

    Raises:
        ValueError: If there is none of such a name, or its packages are not installed.
    """
    formats = tuple(dict.fromkeys([asked] if isinstance(asked, str) else asked))
    for each in formats:
        if each not in PACKAGES:
            raise ValueError(f"expected a format out of {', '.join(FORMATS)}, got {each!r}")
        missing = [name for name in PACKAGES[each] if find_spec(name) is None]
        if missing:
            raise ValueError(
                f"expected the packages of format={each}, got none of the name "
                f"{' or '.join(missing)}; pip install -e .[onnx]"
            )
    return formats


def export_gate(
    gate: Gate,
    path: Path,
    formats: Sequence[str],
    image: Tensor,
    *,
    classify: bool = True,
    half: bool = False,
) -> dict[Path, Agreement]:
    """Writes exports of a gate, each after a comparison with the gate, and tells how they agree.

    The images are compared in their own size and, some of them, in others. An image that
    lies on the threshold within the noise of float32 may fall on either side, see `Agreement`.

    Args:
        gate: Gate.
        path: File of the gate; an export has its name and the ending of its format.
        formats: Formats out of `FORMATS`.
        image: (n, C, H, W) uint8 images to compare on.
        classify: Whether the export gives label and probability.
        half: Whether the network computes in float16. Decisions may then differ.

    Raises:
        ValueError: If the detector cannot be exported, or the export decides differently about an
            image although the precision is the same; no file of that format is written.
        OSError: If there is no room.
    """
    program = traced(gate, classify=classify, half=half)
    images = [image, *other_sizes(image)]
    facts = _facts(gate, half=half)
    found: dict[Path, Agreement] = {}

    def write(partial: Path) -> None:
        save, read = SAVED[partial.suffix]
        save(program, partial, facts)
        agrees = found[path.with_suffix(partial.suffix)] = agreement(gate, read(partial), images)
        if agrees.differing and not half:
            raise ValueError(
                f"expected {partial.name} to decide as the gate does, got {agrees}; it was not "
                "written: use gate.pt, and report this"
            )

    for each in formats:
        write_whole(path.with_suffix(f".{each}"), write)
    return found


def traced(gate: Gate, *, classify: bool = True, half: bool = False) -> ExportedProgram:
    """Returns the graph of a gate; batch, height and width of the images may vary.

    Raises:
        ValueError: If the detector does what a graph cannot hold, or the images are no pictures.
    """
    gate = deepcopy(gate).cpu()
    if half:
        _halve(gate)
    exported = Exported(gate, classify=classify).eval()
    channels, height, width = gate.picture.shape
    image = torch.zeros(2, channels, height + 3, width + 5, dtype=torch.uint8)
    shapes = ({axis: Dim(name) for axis, name in INPUT.items()},)
    try:
        with _quiet(), in_float32(image.device), torch.no_grad():
            program = torch.export.export(exported, (image,), dynamic_shapes=shapes, strict=False)
            return _without_dead_code(program.run_decompositions({}))
    except Exception as error:  # torch.export raises many types
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            "expected a detector whose score is one fixed sequence of tensor operations without "
            f"gradients, got {type(gate.detector).__name__} ({gate.name}), which cannot be "
            f"exported ({type(error).__name__}: {first[:200]}); use gate.pt, or another detector"
        ) from error


def _without_dead_code(program: ExportedProgram) -> ExportedProgram:
    """Drops what no output needs, and the checks of types within the graph that would keep it."""
    graph = program.graph
    for node in graph.find_nodes(
        op="call_function", target=torch.ops.aten._assert_tensor_metadata.default
    ):
        checked = node.args[0]
        if not (isinstance(checked, Node) and checked.op == "placeholder"):  # the image is checked
            graph.erase_node(node)
    graph.eliminate_dead_code()
    _drop_unused_weights(program)
    program.graph_module.recompile()
    return program


def _drop_unused_weights(program: ExportedProgram) -> None:
    """Drops the tensors that no operation reads: a .pt2 would hold those behind the cut."""
    kept = []
    for spec, node in zip(
        program.graph_signature.input_specs,
        program.graph.find_nodes(op="placeholder"),
        strict=True,
    ):
        if node.users or spec.kind is InputKind.USER_INPUT:
            kept.append(spec)
            continue
        program.graph.erase_node(node)
        held = program.constants if spec.target in program.constants else program.state_dict
        held.pop(spec.target, None)
    program.graph_signature.input_specs[:] = kept


def _halve(gate: Gate) -> None:
    """Makes the network compute in float16; normalisation, score and p-value stay as they are."""
    net = gate.network.net.half()
    net.register_forward_pre_hook(lambda _, inputs: tuple(each.half() for each in inputs))


def _facts(gate: Gate, *, half: bool) -> dict[str, str]:
    """Returns what a reader of the file may want to know, as text."""
    channels, size, _ = gate.picture.shape
    short_side = gate.picture.short_side
    return {
        "classes": json.dumps(gate.classes),
        "detector": gate.name,
        "alpha": str(gate.alpha),
        "digest": gate.digest,
        "channels": str(channels),
        "size": str(size),
        "short_side": "" if short_side is None else str(short_side),
        "precision": "float16" if half else "float32",
    }


def _save_pt2(program: ExportedProgram, path: Path, facts: dict[str, str]) -> None:
    torch.export.save(program, path, extra_files={"gate.json": json.dumps(facts)})


def _pt2(path: Path) -> Callable[[NDArray[np.uint8]], Said]:
    module = torch.export.load(path).module()

    def run(image: NDArray[np.uint8]) -> Said:
        with torch.no_grad():
            judged = module(torch.from_numpy(image))
        return {name: value.numpy() for name, value in judged.items()}

    return run


def _save_onnx(program: ExportedProgram, path: Path, facts: dict[str, str]) -> None:
    outputs: Any = program.call_spec.out_spec  # that of a dictionary
    try:
        with _quiet():
            model: Any = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["image"],
                output_names=list(outputs.context),
                dynamic_shapes=(INPUT,),
                verbose=False,
            )
    except Exception as error:  # the exporter raises many types
        first = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ValueError(
            "expected a detector that ONNX has the operations for, got "
            f"{facts['detector']}, which cannot be exported ({first[:200]}); set format=pt2, or "
            "choose another detector"
        ) from error
    model.model.metadata_props.update(facts)
    model.save(path, external_data=False)


def _onnx(path: Path) -> Callable[[NDArray[np.uint8]], Said]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def run(image: NDArray[np.uint8]) -> Said:
        return dict(zip(names, session.run(names, {"image": image}), strict=True))

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporters' own warnings and notes are not shown."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


SAVED = {".pt2": (_save_pt2, _pt2), ".onnx": (_save_onnx, _onnx)}
