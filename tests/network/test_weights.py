"""Laws of foreign weights: every layout loads, no code runs, a misfit is told with its cause."""

import base64
import contextlib
import json
import pickle
import random
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from src.models import VGG, ResNet, WideResNet
from src.models.resnet import Bottleneck
from src.network import Network
from src.network.weights import load_weights
from tests.fakes import Harmful

pytestmark = [  # of torch, at files made to be odd
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
    pytest.mark.filterwarnings("ignore:Validating sparse tensor"),
]
State = dict[str, Tensor]
nothing = contextlib.nullcontext()


def resnet(**arguments: Any) -> ResNet:
    return ResNet((1, 1, 1, 1), **({"width": 4, "num_classes": 5} | arguments))


@pytest.fixture
def trained() -> ResNet:
    """Random weights with statistics of their own."""
    torch.manual_seed(1)
    net = resnet()
    net(torch.randn(8, 3, 16, 16))
    return net.eval()


def same(net: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(value.equal(state[key]) for key, value in net.state_dict().items())


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "a plain state dict": lambda state: state,
    "the authors' and timm's": lambda state: {
        "epoch": 99, "arch": "resnet", "state_dict": state, "optimizer": {"state": {}},
        "version": 2, "metric": 0.9,
    },
    "timm's with its command line": lambda state: {
        "state_dict": state, "args": Namespace(model="resnet18", lr=0.1),
    },
    "model": lambda state: {"model": state, "epoch": 3},
    "net": lambda state: {"net": state, "acc": 95.1},
    "a key nobody agreed on": lambda state: {
        "student": state, "best": torch.tensor(0.9),
        "optimizer": {"state": {0: {"step": torch.zeros(()), "exp_avg": torch.zeros(2)}}},
    },
    "an empty state_dict beside the full one": lambda state: {"state_dict": {}, "model": state},
    "averaged weights by torch": lambda state: {
        "n_averaged": torch.tensor(3), **{f"module.{key}": value for key, value in state.items()},
    },
    "averaged weights beside the last": lambda state: {
        "state_dict_ema": {key: value * 0 for key, value in state.items()}, "state_dict": state,
    },
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "_orig_mod.": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "module._orig_mod.": lambda state: {
        "state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}
    },
    "a LightningModule": lambda state: {
        "state_dict": {f"model.net.{key}": value for key, value in state.items()},
        "pytorch-lightning_version": "2.6.6",
    },
    "without the counters of old files": lambda state: {
        key: value for key, value in state.items() if not key.endswith("num_batches_tracked")
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads(layout: str, trained: ResNet, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](trained.state_dict()), tmp_path / "file.pth")
    net = resnet()
    load_weights(net, tmp_path / "file.pth")
    counted = layout != "without the counters of old files"
    assert same(net, trained) or not counted
    image = torch.rand(4, 3, 16, 16)
    assert net.eval()(image).equal(trained(image))


# by safetensors 0.8.0: metadata, a (2, 2) float32, a (2,) float16
SAVED = base64.b64decode(
    "oAAAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJmb3JtYXQiOiJwdCJ9LCJmYy53ZWlnaHQiOnsiZHR5cGUiOiJGMzIiLCJz"
    "aGFwZSI6WzIsMl0sImRhdGFfb2Zmc2V0cyI6WzAsMTZdfSwiZmMuYmlhcyI6eyJkdHlwZSI6IkYxNiIsInNoYXBlIjpb"
    "Ml0sImRhdGFfb2Zmc2V0cyI6WzE2LDIwXX19ICAgAACAPwAAAEAAAEBAAACAQAA4ALg="
)


def safetensors(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("name", ["model.safetensors", "blob"])
def test_a_file_of_the_safetensors_package_loads(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(SAVED)
    net = nn.Sequential()
    net.add_module("fc", nn.Linear(2, 2))
    load_weights(net, tmp_path / name)
    assert net.fc.weight.tolist() == [[1, 2], [3, 4]]
    assert net.fc.bias.tolist() == [0.5, -0.5]


def test_a_whole_network_in_safetensors_loads(trained: ResNet, tmp_path: Path) -> None:
    state = {f"model.{key}": value for key, value in trained.state_dict().items()}
    header, data = {}, b""
    names = {torch.float32: "F32", torch.int64: "I64"}
    for key, value in state.items():
        raw = value.numpy().tobytes()
        header[key] = entry(len(data), len(data) + len(raw), value.shape, names[value.dtype])
        data += raw
    (tmp_path / "file").write_bytes(safetensors(header, data))
    net = resnet()
    load_weights(net, tmp_path / "file")
    assert same(net, trained)


MALFORMED: dict[str, bytes] = {
    "shorter than its tensors": safetensors({"a": entry(0, 4)}, bytes(3)),
    "longer than its tensors": safetensors({"a": entry(0, 4)}, bytes(5)),
    "a header behind its end": (9_000).to_bytes(8, "little") + b"{}",
    "a header of all memory": (2**63).to_bytes(8, "little") + b"{}",
    "deep": safetensors(b'{"a":' * 200_000 + b"1" + b"}" * 200_000, b""),
    "cut text": safetensors(b'{"a":', b""),
    "no text": safetensors(b'{"\xff":1}', b""),
    "no entry": safetensors({"a": None}, b""),
    "overlap": safetensors({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
    "a gap": safetensors({"a": entry(4, 8)}, bytes(8)),
    "reversed": safetensors({"a": entry(4, 0)}, bytes(4)),
    "before the file": safetensors({"a": entry(-4, 0)}, b""),
    "a thousand million values": safetensors({"a": entry(0, 4, [10**9])}, bytes(4)),
    "as much in bytes": safetensors({"a": entry(0, 4 * 10**9, [10**9])}, bytes(4)),
    "huge and empty": safetensors({"a": entry(0, 0, [0, 2**62, 2**62])}, b""),
    "negative sides": safetensors({"a": entry(0, 4, [-1, -1])}, bytes(4)),
    "a fraction": safetensors({"a": entry(0, 4, [1.0])}, bytes(4)),
    "a truth": safetensors({"a": entry(0, 4, [True])}, bytes(4)),
    "words": safetensors({"a": entry(0, 4, "1")}, bytes(4)),
    "many sides": safetensors({"a": entry(0, 4, [1] * 1000)}, bytes(4)),
    "an unknown type": safetensors({"a": entry(0, 4, [1], "F3")}, bytes(4)),
    "a type that is a list": safetensors({"a": entry(0, 4, [1], [])}, bytes(4)),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_safetensors_are_refused_at_once(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(MALFORMED[fault])
    with pytest.raises(
        ValueError, match=r"expected a file of weights alone, got .*fetch it again"
    ):
        load_weights(resnet(), path)


def test_minus_infinity_may_be_a_mask_but_nan_and_infinity_are_no_weights(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    for number, refused in ((torch.nan, True), (torch.inf, True), (-torch.inf, False)):
        state = {"0.weight": torch.tensor([[1, number], [1, 1]]), "0.bias": torch.zeros(2)}
        torch.save(state, tmp_path / "file.pth")
        with pytest.raises(ValueError, match="NaN or infinity in 0") if refused else nothing:
            load_weights(net, tmp_path / "file.pth")


def test_a_checkpoint_of_ours_is_weights_like_any_other(trained: ResNet, tmp_path: Path) -> None:
    network = Network(trained, image_shape=(3, 16, 16), mean=0.1)
    network.norm_ratio = dict.fromkeys(network.blocks, 1.0)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "config": {"seed": 0}}, tmp_path / "last.ckpt")
    other = Network(resnet(), image_shape=(3, 16, 16), weights=tmp_path / "last.ckpt")
    assert same(other.net, trained)
    assert other.selected is None
    assert other.mean.flatten().tolist() == [0.5] * 3


def old_densenet(state: State) -> State:
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def old_transformer(state: State) -> State:
    return {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in state.items()
    }


def transformer() -> nn.Module:
    return models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=1, hidden_dim=8, mlp_dim=16
    )


@pytest.mark.parametrize(
    ("make", "renamed"),
    [
        (lambda: models.DenseNet(4, (2, 2), 8, num_classes=5), old_densenet),
        (transformer, old_transformer),
        (lambda: models.mnasnet0_5(num_classes=5), lambda state: state),  # reads their version
    ],
    ids=["DenseNet", "VisionTransformer", "MNASNet"],
)
def test_files_of_torchvision_load_under_the_names_they_are_stored_with(
    make: Callable[[], nn.Module], renamed: Callable[[State], State], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    net, other = make(), make()
    torch.save(renamed(net.state_dict()), tmp_path / "file.pth")
    load_weights(other, tmp_path / "file.pth")
    assert same(other, net)


def test_a_prefix_that_names_a_part_of_the_network_is_kept(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("module", nn.Linear(2, 3))
    torch.save(net.state_dict(), tmp_path / "file.pth")
    load_weights(net, tmp_path / "file.pth")


TORCHVISION = models.resnet18(num_classes=5).state_dict()
MISFITS: dict[str, tuple[Callable[[], nn.Module], State, str]] = {
    "other classes": (
        resnet,
        resnet(num_classes=7).state_dict(),
        r"ResNet, .* 2 of another shape: fc\.weight \(7, 32\) instead of \(5, 32\), fc\.bias .*"
        r"Only the head differs: set net\.net\.num_classes=7",
    ),
    "stem of torchvision": (
        lambda: models.resnet18(num_classes=5),
        TORCHVISION | {"conv1.weight": torch.zeros(64, 3, 3, 3)},
        r"conv1\.weight \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)\. The stems differ",
    ),
    "ResNet of torchvision": (
        lambda: ResNet(num_classes=5),
        TORCHVISION,
        r"15 missing: layer2\.0\.shortcut\.0\.weight, .*; 18 unexpected: layer2\.0\.downsample.*"
        "They are of a ResNet of torchvision or timm",
    ),
    "ResNet for small images": (
        lambda: models.resnet18(num_classes=5),
        ResNet(num_classes=5).state_dict(),
        "They are of a ResNet for small images: choose one of src.models",
    ),
    "with batch norm": (
        lambda: VGG((4, "M", 4)),
        VGG((4, "M", 4), batch_norm=True).state_dict(),
        "They are of a network with batch norm: choose it",
    ),
    "without batch norm": (
        lambda: VGG((4, "M", 4), batch_norm=True),
        VGG((4, "M", 4)).state_dict(),
        "They are of a network without batch norm: choose it",
    ),
    "deeper": (
        resnet,
        ResNet((2, 1, 1, 1), 4, 5).state_dict(),
        r"12 unexpected: layer1\.1\.conv1\.weight, .* deeper, shallower, wider or narrower",
    ),
    "wider": (resnet, resnet(width=8).state_dict(), "wider or narrower network"),
    "other blocks": (
        resnet,
        resnet(block=Bottleneck).state_dict(),
        r"unexpected: .*conv3.*deeper, shallower, wider or narrower",
    ),
    "old file of another architecture": (
        resnet,
        old_transformer(transformer().state_dict()),
        "Nothing is in common",
    ),
    "what cannot be copied": (
        resnet,
        (full := resnet().state_dict()) | {"fc.weight": full["fc.weight"].to_sparse()},
        "of which .*fc.weight.*sparse",
    ),
    "another architecture": (
        lambda: VGG((4, "M", 4)),
        WideResNet(10, 1).state_dict(),
        "Nothing is in common: choose the architecture that was trained",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_misfit_is_told_with_its_cause_and_changes_nothing(misfit: str, tmp_path: Path) -> None:
    make, state, says = MISFITS[misfit]
    torch.save(state, tmp_path / "file.pth")
    net = make()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=f"(?s)expected the .* entries of .*{says}") as caught:
        load_weights(net, tmp_path / "file.pth")
    assert "\n" not in str(caught.value)
    one = caught.value.__suppress_context__ or caught.value.__context__ is None
    assert one, "torch's list is printed before it"
    assert all(value.equal(before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    "kind", ["code", "module", "half", "old half", "text", "nothing", "numbers", "optimizer"]
)
def test_what_is_no_file_of_weights_is_refused_and_runs_no_code(
    kind: str, trained: ResNet, tmp_path: Path
) -> None:
    path, trace = tmp_path / "file.pth", tmp_path / "ran"
    if kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": Harmful(trace)}))
    elif kind == "module":
        torch.save(trained, path)
    elif kind in ("half", "old half"):
        torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=kind == "half")
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "text":
        path.write_text("not weights")
    elif kind == "nothing":
        path.touch()
    elif kind == "optimizer":
        optimizer = torch.optim.Adam(trained.parameters())
        trained(torch.zeros(1, 3, 8, 8)).sum().backward()
        optimizer.step()
        torch.save(optimizer.state_dict(), path)
    else:
        torch.save({"accuracy": 0.9, "epoch": 3}, path)
    with pytest.raises(
        ValueError, match=r"expected a .*got .*(; |, or )save net\.state_dict\(\)"
    ) as caught:
        load_weights(resnet(), path)
    assert caught.value.__context__ is None  # there torch advises to trust the file
    assert not trace.exists()


@pytest.mark.parametrize("name", ["gone.pth", "ResNet50_Weights.GONE", "Nothing_Weights.DEFAULT"])
def test_what_is_neither_file_nor_name_is_refused(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"a name in torchvision, got '{name}', .*neither"):
        load_weights(resnet(), name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where torch.hub looks before it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


def test_a_name_in_torchvision_loads_what_torch_hub_has(hub: Path) -> None:
    torch.manual_seed(2)
    net, other = (models.squeezenet1_1() for _ in range(2))
    weights = models.get_weight("SqueezeNet1_1_Weights.IMAGENET1K_V1")
    torch.save(net.state_dict(), hub / weights.url.rpartition("/")[2])
    load_weights(other, "SqueezeNet1_1_Weights.IMAGENET1K_V1")
    assert same(other, net)


def test_without_an_answer_the_address_and_the_folder_are_told(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):  # where nothing answers
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    says = (
        r"expected the weights ResNet18_Weights.IMAGENET1K_V1, got no such file from .*"
        rf"put it at {hub}/resnet18-f37072fd\.pth"
    )
    with pytest.raises(FileNotFoundError, match=says):
        load_weights(models.resnet18(), "ResNet18_Weights.IMAGENET1K_V1")
    assert not list(hub.iterdir())


def test_a_broken_file_where_torch_hub_looks_is_named(hub: Path) -> None:
    (hub / "resnet18-f37072fd.pth").write_text("<html>forbidden</html>")
    with pytest.raises(ValueError, match=rf"got {hub}/resnet18-.*incomplete.*fetch it again"):
        load_weights(models.resnet18(), "ResNet18_Weights.IMAGENET1K_V1")


def test_what_breaks_in_any_other_way_is_refused_alike(trained: ResNet, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    generator = random.Random(0)
    torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for _ in range(100):
        broken = bytearray(whole)
        for _ in range(20):
            broken[generator.randrange(3000)] = generator.randrange(256)
        path.write_bytes(broken)
        with contextlib.suppress(ValueError):  # some changes do no harm
            load_weights(resnet(), path)
