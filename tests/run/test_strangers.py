"""Files of strangers: no configuration that was read from a file calls what is not ours."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from src.run import load_network
from src.run.places import check_places
from src.run.targets import admitted
from tests import REPOSITORY
from tests.conftest import Command

WALKS = {
    "a foreign object": "pathlib.Path",
    "a builtin": "builtins.eval",
    "through a module of ours": "src.records.atomic.Path.touch",
    "an import of ours": "src.data.files.Path",
    "a function of ours": "src.records.atomic.write_whole",
    "a loader of ours": "src.run.pretrained.load_network",
    "a module in a module": "src.run.pretrained.torch.load",
    "an import of torchvision": "torchvision.models.resnet.partial",
    "a private module": "torchvision.models._api.get_model",
    "through torch": "torch.nn.modules.torch.load",
    "torch's hub": "torch.hub.load",
    "a method": "src.network.Network.from_torch",
    "a name made of references": "${name}",
    "a logger elsewhere": "src.loggers.CSVLogger",
    "a logger's own module": "src.loggers.csv_logs.CSVLogger",
    "no module": "torchvision.models.none.deeper.Network",
    "a download": "src.data.download.fetch",
    "a prefix": "src.networks_of_mine.Network",
    "no name": "src.network.",
    "no string": ["pathlib.Path"],
}
PLACES = {
    "a value": lambda node: node,
    "a list": lambda node: [node],
    "a tuple": lambda node: (node,),
    "deep": lambda node: [{"a": ({"b": [node]},)}],
    "an argument": lambda node: {"_target_": "torch.nn.Identity", "_args_": [node]},
}
RESOLVERS = [
    "${oc.env:HOME}", "a ${oc.env:HOME}", "${oc.create:{_target_: pathlib.Path}}", "${ oc.env:A}",
    "${hydra:runtime.output_dir}", "${${a}:b}", "\\${oc.env:HOME}", "${a.${oc.env:B}}", "${",
]  # fmt: skip


@pytest.mark.parametrize(("walk", "place"), list(product(WALKS, PLACES)))
def test_nothing_but_ours_is_built(walk: str, place: str) -> None:
    node = {"_target_": WALKS[walk], "_args_": ["harmed"]}
    config = {"net": {"mean": PLACES[place](node)}}
    with pytest.raises(ValueError, match=r"expected a checkpoint or run that builds .*trust=true"):
        admitted(config, "file")
    admitted(config, "file", replaced={"net"})
    with pytest.raises(ValueError, match="expected a checkpoint or run"):
        admitted(config, "file", replaced={"net.blocks"})


@pytest.mark.parametrize("text", RESOLVERS)
@pytest.mark.parametrize("place", PLACES)
def test_no_resolver_runs(text: str, place: str) -> None:
    with pytest.raises(ValueError, match="expected a checkpoint or run that builds"):
        admitted({"name": PLACES[place](text)}, "file")


@pytest.mark.parametrize("node", [
    {"_target_": "timm.create_model", "model_name": "x", "checkpoint_path": "file"},
    {"_target_": "src.data.HuggingFace", "path": "a/b", "trust_remote_code": True},
    {"_target_": "src.data.HuggingFace", "path": "a/b", "data_files": "file"},
    {"_target_": "src.data.Torchvision", "root": "data", "annFile": "file"},
    {"_target_": "src.data.libraries.HuggingFace", "path": "a/b", "trust_remote_code": True},
    {"_target_": "src.data.libraries.Torchvision", "root": "data", "loader": "x"},
    {"_target_": "timm.create_model", "model_name": "local-dir:/secrets"},
    {"_target_": "torch.nn.Identity", "_partial_": "yes"},
    {"_target_": "torch.nn.Identity", "_args_": {"a": 1}},
    {"_target_": "torch.nn.Identity", "_convert_": {"_target_": "torch.nn.Identity"}},
])  # fmt: skip
def test_an_option_that_reads_or_runs_is_refused(node: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a checkpoint or run that builds"):
        admitted({"net": [node]}, "file")


OUTSIDE = {
    "an absolute path": "/etc",
    "a path upwards": "data/../../secrets",
    "a path upwards from data_dir": "${data_dir}/../secrets",
    "a home": "~/secrets",
    "a folder beside": "secrets/of/mine",
    "a name that only begins alike": "${data_dir}_of_mine",
}
ARGUMENTS = {
    "images": {"_target_": "src.data.ImageFolder", "path": None},
    "a list": {"_target_": "src.data.ImageList", "path": None},
    "its root": {"_target_": "src.data.ImageList", "path": "data/list", "root": None},
    "downloads": {"_target_": "src.data.Torchvision", "root": None},
    "a cache": {"_target_": "src.data.ImageData", "cache_dir": None},
    "weights": {"_target_": "src.network.Network", "weights": None},
    "a log": {"_target_": "src.loggers.CSVLogger", "save_dir": None},
    "its place": {"_target_": "src.data.ImageFolder", "_args_": [None]},
}


def with_place(name: str, place: str) -> DictConfig:
    """Returns a configuration whose node leads to a place."""
    node = {key: place if value is None else value for key, value in ARGUMENTS[name].items()}
    if "_args_" in node:
        node["_args_"] = [place]
    return OmegaConf.create({"run_dir": "run", "data_dir": "data", "data": {"train": [node]}})


@pytest.mark.parametrize("place", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_file_leads_to_no_other_place(name: str, place: str) -> None:
    cfg, own = with_place(name, place), OmegaConf.create({})
    with pytest.raises(ValueError, match=r"expected paths within the run directory and data_dir"):
        check_places(cfg, own, "file", trust=False)
    check_places(cfg, cfg, "file", trust=False)  # the command has the same
    check_places(cfg, own, "file", trust=True)


@pytest.mark.parametrize("place", ["data/a", "${data_dir}", "run/b", "data/../data/a", ".cache"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_file_leads_into_the_run_and_the_data(name: str, place: str) -> None:
    check_places(
        with_place(name, place), OmegaConf.create({"data_dir": "data"}), "file", trust=False
    )


def test_a_cache_is_not_written_where_only_the_file_has_its_data() -> None:
    cfg = with_place("a cache", "data/a")
    with pytest.raises(ValueError, match=r"got data\.train\.0\.cache_dir=data/a from file"):
        check_places(cfg, OmegaConf.create({"data_dir": "elsewhere"}), "file", trust=False)


def test_weights_of_torchvision_are_no_place() -> None:
    cfg = with_place("weights", "ResNet50_Weights.IMAGENET1K_V1")
    check_places(cfg, OmegaConf.create({}), "file", trust=False)


def test_other_objects_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected a plain value at net\.mean\.0, got PosixPath .*; fetch"
    ):
        admitted({"net": {"mean": [Path("x")]}}, "file")


def test_trust_says_what_it_trusted(caplog: pytest.LogCaptureFixture) -> None:
    config = {"net": {"_target_": "nets.Mine", "name": "${oc.env:HOME}"}}
    assert admitted(config, "file.ckpt", trust=True) == config
    assert "trusted in file.ckpt: net._target_: nets.Mine; net.name: ${oc.env:HOME}" in caplog.text


@pytest.mark.parametrize("target", [
    "src.network.Network", "src.models.resnet18", "src.models.ResNet", "src.data.ImageData",
    "src.data.pseudo_ood.Jigsaw", "src.detectors.FeatureNorm", "torchvision.models.vit_b_16",
    "torchvision.models.convnext.CNBlockConfig", "torch.optim.SGD", "torch.nn.GELU",
    "torch.optim.lr_scheduler.OneCycleLR", "src.block_selection.BlockSelection",
    "src.callbacks.ProfileCurves", "src.callbacks.EMA", "src.data.Compose",
    "lightning.pytorch.strategies.DDPStrategy",
])  # fmt: skip
def test_ours_is_built(target: str) -> None:
    config: dict[str, Any] = {"net": ({"_target_": target, "size": "${data.size}"},)}
    assert admitted(config, "file") == {"net": [config["net"][0]]}


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "wrn16_4"])
def test_released_networks_are_admitted(name: str) -> None:
    load_network(str(REPOSITORY / f"weights/{name}_cifar10_short.pt"))


@pytest.mark.parametrize("node", [
    {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path"}]},
    {"_target_": "src.data.CropFlip", "seed": "${oc.env:HOME}"},
])  # fmt: skip
def test_a_run_of_a_stranger_is_not_resumed(
    node: dict[str, Any], finished_run: Path, tmp_path: Path, command: Command
) -> None:
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    config["data"]["augmentation"] = node
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"expected a checkpoint or run .* data\.augmentation"):
        command("src.train", f"resume={run_dir}", f"hydra.run.dir={tmp_path / 'new'}")
    assert [each.name for each in run_dir.iterdir()] == ["config.yaml"]
