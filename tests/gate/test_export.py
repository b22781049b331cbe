"""What is exported decides as the gate does, without the gate, and says so if it cannot."""

import json
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.detectors import MSP, Detector, Energy, FeatureNorm
from src.gate import Calibration, Gate, Picture, export_gate
from src.gate.agreement import agreement, other_sizes, trial_images
from src.gate.export import FORMATS, Exported, asked_formats, traced
from src.gate.file import save
from tests import REPOSITORY
from tests.conftest import Command, Refused
from tests.detectors.test_detectors import DETECTORS, EXPORTED, fitted, new_network

onnxruntime = pytest.importorskip("onnxruntime")


def new_gate(build: Callable[[], Detector], *, by_class: bool = False, alpha: float = 0.1) -> Gate:
    """A gate for 8 x 8 grey images, calibrated on noise."""
    network = new_network()
    detector = fitted(build, network)
    image = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    detector.prepare(network)
    seen = network.observe(image)
    prediction = seen.logits.argmax(dim=1) if by_class else None
    calibration = Calibration(detector.score(seen).detach(), prediction, alpha, ["left", "right"])
    return Gate(
        network, detector, calibration,
        classes=["left", "right"], picture=Picture((1, 8, 8)), name="tried",
    )  # fmt: skip


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_both_formats_decide_as_the_gate_at_any_batch_and_size(tmp_path: Path) -> None:
    gate = new_gate(lambda: FeatureNorm(at="3"))
    found = export_gate(gate, tmp_path / "gate.pt", FORMATS, trial_images(gate))
    assert {path.name for path in tmp_path.iterdir()} == {"gate.onnx", "gate.pt2"}
    for path, each in found.items():
        assert path.parent == tmp_path
        assert each.differing == 0
        assert each.ties <= 3  # a black image has two classes of one logit
        assert each.images > 300
        assert each.score < 1e-5
    run = session(tmp_path / "gate.onnx")
    assert [each.shape for each in run.get_inputs()] == [["batch", 1, "height", "width"]]
    module = torch.export.load(tmp_path / "gate.pt2").module()
    for shape in ((1, 1, 1), (1, 8, 8), (7, 50, 9), (64, 8, 30)):
        image = torch.randint(256, (shape[0], 1, *shape[1:]), dtype=torch.uint8)
        expected = gate.judge(torch.stack([gate.picture(each) for each in image]))._asdict()
        names = [each.name for each in run.get_outputs()]
        assert names == list(expected)
        of_onnx = dict(zip(names, run.run(None, {"image": image.numpy()}), strict=True))
        of_pt2 = module(image)
        for name, value in expected.items():
            assert of_pt2[name].dtype == value.dtype
            assert of_onnx[name].dtype == value.numpy().dtype
            torch.testing.assert_close(of_pt2[name], value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                torch.from_numpy(of_onnx[name]), value, rtol=1e-5, atol=1e-6
            )


def test_a_gate_by_class_decides_alike_and_tells_what_it_is(tmp_path: Path) -> None:
    gate = new_gate(Energy, by_class=True)
    (found,) = export_gate(gate, tmp_path / "g.pt", ["onnx"], trial_images(gate)).values()
    assert found.differing == 0
    facts = session(tmp_path / "g.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["left", "right"]
    assert facts["digest"] == gate.digest
    assert (facts["detector"], facts["alpha"], facts["size"]) == ("tried", "0.1", "8")


def operations(gate: Gate, *, classify: bool) -> list[str]:
    return [str(node.target) for node in traced(gate, classify=classify).graph.nodes]


def test_without_the_class_nothing_is_left_behind_the_block_that_decides(tmp_path: Path) -> None:
    gate = new_gate(lambda: FeatureNorm(at="1"))
    whole, cut = (operations(gate, classify=each) for each in (True, False))
    assert sum("conv2d" in each for each in cut) == 1
    assert any("avg_pool2d" in each for each in whole)
    assert not any("avg_pool2d" in each or "linear" in each for each in cut)
    assert len(cut) < len(whole)
    assert not any("assert" in each for each in cut[cut.index("aten.conv2d.default") :])
    weights = traced(gate, classify=False).state_dict
    assert [name for name in weights if ".net." in name] == ["gate.network.net.0.weight"]
    path, _ = export_gate(
        gate, tmp_path / "g.pt", FORMATS[::-1], trial_images(gate), classify=False
    )
    assert [each.name for each in session(path).get_outputs()] == ["score", "p_value", "is_ood"]


def test_a_cropping_pipeline_is_part_of_the_graph() -> None:
    gate = new_gate(lambda: FeatureNorm(at="1"))
    gate.picture = Picture((1, 8, 8), short_side=10)
    image = torch.randint(256, (3, 1, 40, 31), dtype=torch.uint8)
    expected = gate.judge(torch.stack([gate.picture(each) for each in image])).score
    assert traced(gate).module()(image)["score"].equal(expected)


def test_an_export_that_decides_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = new_gate(lambda: FeatureNorm(at="3"))
    wrong = new_gate(lambda: FeatureNorm(at="3"))
    wrong.network.net[0].weight.data *= 1.5
    program = traced(wrong)
    monkeypatch.setattr("src.gate.export.traced", lambda *_, **__: program)
    with pytest.raises(ValueError, match=r"expected g.pt2 to decide .*, got .* [1-9]\d* decided"):
        export_gate(gate, tmp_path / "g.pt", ["pt2"], trial_images(gate))
    assert not list(tmp_path.iterdir())


def test_a_score_on_the_threshold_is_a_tie_and_counted() -> None:
    gate = new_gate(lambda: FeatureNorm(at="3"))
    image = trial_images(gate)
    shift = 0.0

    def run(pixels: Any) -> Any:
        judged = gate.judge(torch.stack([gate.picture(each) for each in torch.from_numpy(pixels)]))
        again = gate.calibration(judged.score + shift, judged.label)
        said = judged._replace(score=judged.score + shift, p_value=again[0], is_ood=again[1])
        return {name: value.numpy() for name, value in said._asdict().items()}

    score = gate.judge(torch.stack([gate.picture(each) for each in image])).score
    gate.calibration.known += score.median() - gate.calibration.threshold[0]
    assert agreement(gate, run, [image]).ties == 0
    shift = -1e-9
    found = agreement(gate, run, [image])
    assert (found.differing, found.ties > 0) == (0, True)
    shift = -float(gate.calibration.known.std())
    assert agreement(gate, run, [image]).differing > 10


def test_half_precision_counts_decisions_that_changed(tmp_path: Path) -> None:
    gate = new_gate(lambda: FeatureNorm(at="3"))
    (path,) = found = export_gate(gate, tmp_path / "g.pt", ["pt2"], trial_images(gate), half=True)
    assert 0 < found[path].score < 0.1
    weights = torch.export.load(path).state_dict
    assert weights["gate.network.net.0.weight"].dtype == torch.float16
    assert gate.network.net[0].weight.dtype == torch.float32


# one of each way to compute; `python -m bench.export_table` tries all
KINDS = ("ASH", "Conformal", "Gram", "KNN", "Mahalanobis", "NormProfile", "OpenMax", "Perturbed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [build for kind, build in zip(EXPORTED, DETECTORS, strict=False) if kind.__name__ in KINDS],
    ids=lambda build: type(build()).__name__,
)
def test_a_detector_exports_or_is_refused_by_name(
    build: Callable[[], Detector], tmp_path: Path
) -> None:
    gate = new_gate(build)
    kind = type(gate.detector).__name__
    try:
        found = export_gate(gate, tmp_path / "g.pt", ["pt2"], trial_images(gate))
    except ValueError as error:
        assert f"got {kind} (tried), which cannot be exported" in str(error)  # noqa: PT017
        assert not list(tmp_path.iterdir())
    else:
        assert [each.differing for each in found.values()] == [0]


def test_unknown_formats_and_images_that_are_no_pictures_are_refused() -> None:
    assert asked_formats("pt2") == ("pt2",)
    with pytest.raises(ValueError, match="expected a format out of pt2, onnx, got 'tflite'"):
        asked_formats(["pt2", "tflite"])
    gate = new_gate(MSP)
    gate.picture = Picture((1, 8, 6))
    with pytest.raises(ValueError, match="expected a gate of square images in grey or RGB"):
        Exported(gate)


def test_images_of_other_sizes_are_compared() -> None:
    image = torch.arange(2 * 64, dtype=torch.uint8).view(2, 1, 8, 8)
    assert {tuple(each.shape[2:]) for each in other_sizes(image)} == {(16, 24), (41, 8)}


def test_ten_lines_of_onnx_runtime_decide_as_the_gate_without_torch(tmp_path: Path) -> None:
    gate = new_gate(lambda: FeatureNorm(at="3"))
    export_gate(gate, tmp_path / "gate.pt", ["onnx"], trial_images(gate))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    without = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
    said = subprocess.run(
        [
            *(sys.executable, "-c", without + "runpy.run_path(sys.argv[0], run_name='__main__')"),
            *(REPOSITORY / "docs/onnx_runtime.py", tmp_path / "gate.onnx", tmp_path / "photo.png"),
        ],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    expected = gate(tmp_path / "photo.png")
    found = literal_eval(said[said.index("{") :])
    assert (found["label"], found["is_ood"]) == (expected.label, expected.is_ood)
    assert found["p_value"] == pytest.approx(expected.p_value)
    assert found["score"] == pytest.approx(expected.score, rel=1e-5)


def test_openvino_reads_the_file_and_decides_alike(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    gate = new_gate(lambda: FeatureNorm(at="3"))
    export_gate(gate, tmp_path / "gate.pt", ["onnx"], image := trial_images(gate))
    model = openvino.Core().compile_model(
        tmp_path / "gate.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def run(pixels: Any) -> Any:
        said = model({"image": pixels})
        return {each.any_name: said[each] for each in model.outputs}

    assert agreement(gate, run, [image, *other_sizes(image)]).differing == 0


def test_a_gate_is_exported_by_the_command_without_data(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {
        "_target_": "src.network.Network", "image_shape": [1, 8, 8], "blocks": ["1", "3"],
        "rotation_head": True,
    }  # fmt: skip
    layers = [
        {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 3,
         "padding": 1, "bias": False},
        {"_target_": "torch.nn.ReLU"}, {"_target_": "torch.nn.AvgPool2d", "kernel_size": 2},
        {"_target_": "torch.nn.ReLU"}, {"_target_": "torch.nn.Flatten"},
        {"_target_": "torch.nn.Linear", "in_features": 32, "out_features": 2, "bias": False},
    ]  # fmt: skip
    net = network | {"net": {"_target_": "torch.nn.Sequential", "_args_": layers}}
    config = {"_target_": "src.detectors.FeatureNorm", "at": "3"}
    save(new_gate(lambda: FeatureNorm(at="3")), tmp_path / "gate.pt", net, config)
    place = f"hydra.run.dir={tmp_path / 'run'}"
    command("src.deploy", f"export={tmp_path / 'gate.pt'}", "format=pt2", "classify=false", place)
    assert "0 decided or classified differently" in " ".join(capsys.readouterr().out.split())
    module = torch.export.load(tmp_path / "gate.pt2").module()
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    assert list(module(image)) == ["score", "p_value", "is_ood"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export=nowhere.pt", "format=pt2"), "expected a gate, got no file at nowhere.pt"),
        (("export=nowhere.pt",), "expected a format beside export="),
        (("checkpoint=nowhere.pt", "format=[tflite]"), "expected a format out of pt2, onnx"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_the_start(
    arguments: tuple[str, ...], message: str, refused: Refused
) -> None:
    assert message in refused("src.deploy", *arguments, "hydra.run.dir=.")
