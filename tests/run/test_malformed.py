"""Malformed checkpoints: each is refused in one sentence, in no time and no memory."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.network import Network
from src.run import load_network
from tests.conftest import Command

CONV = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 4, "kernel_size": 3}
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 144, "out_features": 2}
LAYERS = [CONV, {"_target_": "torch.nn.ReLU"}, {"_target_": "torch.nn.Flatten"}, LINEAR]
NET = {
    "_target_": "src.network.Network",
    "net": {"_target_": "torch.nn.Sequential", "_args_": LAYERS},
    "blocks": ["1"],
    "image_shape": [1, 8, 8],
}
WEIGHT, SELECTION = "network.net.0.weight", "network._extra_state"
GONE = object()


def checkpoint() -> dict[str, Any]:
    """Returns a good one."""
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(144, 2))
    network = Network(net, ["1"], image_shape=(1, 8, 8))
    network.norm_ratio = {"1": 1.5}
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    return {"config": {"net": copy.deepcopy(NET)}, "state_dict": state, "format": 2}


def cases() -> dict[str, tuple[tuple[Any, ...], Any]]:
    """Returns name -> where to put what."""
    values: dict[tuple[Any, ...], list[Any]] = {
        ("config",): [None, [], "x", 3, {}, ["a"], {"net": None}, GONE],
        ("config", "net"): [None, [], "x", 3, {}, GONE],
        ("config", "net", "net"): [
            None, [], "x", 3, {}, GONE, {"_target_": "torch.nn.Identity"},
            {"_target_": "src.models.WideResNet", "depth": 10**9, "widen_factor": 1},
            {"_target_": "src.models.wrn28_10", "num_classes": 10**9},
            {"_target_": "torchvision.models.vit_h_14", "num_classes": 2},
        ],
        ("config", "net", "blocks"): [3, "(", ["x"], [3], "", [], {"a": 1}],
        ("config", "net", "image_shape"): [
            None, 3, "x", [1, 8], [1, -1, 8], [1, 10**6, 10**6], [*"abc"], [1, 8.5, 8], [True] * 3,
        ],
        ("config", "net", "mean"): ["x", None, [], [1, 2], float("nan"), 10**400],
        ("config", "net", "std"): [0, "x", float("nan"), [0]],
        ("config", "net", "more"): [1],
        ("config", "net", "_partial_"): [True],
        ("config", "net", "_args_"): [[1, 2]],
        ("config", "net", "net", "_args_"): [
            [], [LINEAR | {"in_features": 10**9}], [LINEAR | {"out_features": 10**5}],
            [*LAYERS, LINEAR], [CONV | {"kernel_size": "x"}], [*LAYERS[:3], LINEAR | {"bias": 0}],
        ],
        ("config", "data"): [[], 3, "x"],
        ("config", "optim"): [[], 3],
        ("state_dict",): [None, [], "x", 3, {}, {"a": 1}, {3: torch.zeros(1)}, GONE],
        ("state_dict", WEIGHT): [
            None, "x", [1], GONE, torch.zeros(2), torch.full((4, 1, 3, 3), torch.nan),
            torch.full((4, 1, 3, 3), torch.inf), torch.zeros(4, 1, 3, 3).to_sparse(),
            torch.zeros(4, 1, 3, 3, device="meta"),
        ],
        ("state_dict", "network.net.more"): [torch.zeros(3)],
        ("state_dict", SELECTION): [
            [1], "x", {"1": float("nan")}, {"1": float("inf")}, {"1": "x"}, {"2": 1.0},
            {"1": -1.0}, {"1": 10**400}, {"1": {}}, torch.zeros(2),
            {"norm_ratio": {"1": 1.0}, "paired_t": {"1": float("nan")}},
            {"norm_ratio": {"1": 1.0}, "paired_t": {"2": 1.0}},
            {"norm_ratio": {"1": 1.0}, "paired_t": 3}, {"norm_ratio": {"1": 1.0}, "x": {"1": 1.0}},
        ],
        ("format",): ["x", -1, 10**9, 1.5, [], {}, True],
    }  # fmt: skip
    return {
        f"{'.'.join(map(str, path))}={'gone' if value is GONE else str(value)[:40]} {number}":
            (path, value)
        for path, choices in values.items()
        for number, value in enumerate(choices)
    }  # fmt: skip


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_checkpoint_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    path, value = CASES[name]
    content: Any = checkpoint()
    node = content
    for key in path[:-1]:
        node = node[key]
    if value is GONE:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    file = tmp_path / "file.pt"
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"^expected [^\n]*; [^\n]*$"):
        load_network(str(file))


def test_the_good_one_loads(tmp_path: Path) -> None:
    torch.save(checkpoint(), tmp_path / "file.pt")
    assert load_network(str(tmp_path / "file.pt")).selected == "1"


@pytest.mark.parametrize("change", [
    lambda _: b"", lambda _: os.urandom(999), lambda _: b"hello",
    lambda data: data[: len(data) // 2], lambda data: data[:-30],
    lambda _: b"PK\x03\x04" + bytes(99), lambda data: bytes(len(data)),
    lambda _: b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
])  # fmt: skip
def test_a_damaged_file_is_refused(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    torch.save(checkpoint(), file)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=r"^expected [^\n]*; [^\n]*$"):
        load_network(str(file))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file.pt")
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, got no file"):
        load_network(str(tmp_path / "file.pt"))


@pytest.mark.parametrize("group", ["data", "detectors", "trainer"])
def test_an_evaluation_says_what_a_checkpoint_lacks(
    group: str, tmp_path: Path, command: Command
) -> None:
    content = checkpoint()
    others = {"data", "detectors", "trainer"} - {group}
    content["config"] |= {each: {"_target_": "lightning.Trainer"} for each in others}
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=f"expected a checkpoint with its {group}, .*; name it"):
        command("src.evaluate", f"checkpoint={tmp_path}/file.pt", f"hydra.run.dir={tmp_path}/new")


def test_a_configuration_that_grows_when_it_is_read_is_refused(tmp_path: Path) -> None:
    content, node = checkpoint(), [1, 1]
    for _ in range(35):
        node = [node, node]
    content["config"]["name"] = node  # 2^36 values, of which the file holds 72
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"expected at most 100000 values .*; fetch it again"):
        load_network(str(tmp_path / "file.pt"))
