"""Weights that are given away: small, whole, checked, and the same network."""

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.release import Released, halved, main, release
from src.run.configuration import without_weights
from src.run.pretrained import load_network, local_file, released_networks


@pytest.fixture(scope="module")
def released(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    return release(finished_run, tmp_path_factory.mktemp("released"))


def test_a_released_file_is_half_the_weights_and_no_place(
    released: Released, finished_run: Path
) -> None:
    assert hashlib.sha256(released.path.read_bytes()).hexdigest() == released.digest
    content = torch.load(released.path, weights_only=True)
    assert set(content) == {"config", "state_dict", "format"}
    trained = torch.load(finished_run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    parameters = sum(value.numel() for value in trained.values() if torch.is_tensor(value))
    assert released.path.stat().st_size < 2.2 * parameters
    for key, value in content["state_dict"].items():
        if torch.is_tensor(value) and value.is_floating_point() and key.startswith("network.net."):
            assert value.dtype == torch.float16
            torch.testing.assert_close(value.float(), trained[key], rtol=1e-3, atol=1e-7)
        else:
            torch.testing.assert_close(value, trained[key], rtol=0, atol=0)  # and the selection


def test_the_same_run_gives_the_same_bytes_and_no_file_is_replaced(
    released: Released, finished_run: Path, tmp_path: Path
) -> None:
    assert release(finished_run, tmp_path).digest == released.digest
    with pytest.raises(FileExistsError, match=r"expected a new file, got .*quickstart.pt, which"):
        release(finished_run, tmp_path)


@pytest.fixture
def elsewhere(finished_run: Path, tmp_path: Path) -> Path:
    """The finished run as if another machine had begun and resumed it, with less configured."""
    run = tmp_path / "home/run"
    shutil.copytree(finished_run / "checkpoints", run / "checkpoints")
    metrics = json.loads((finished_run / "metrics.json").read_text())
    metrics |= {"selected_block": None, "norm_ratio": {}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    config |= {"data_dir": str(tmp_path / "home/data"), "run_dir": str(run), "resume": str(run)}
    config["selection"]["history"] = f"{run}/norm_ratio.csv"
    config["data"]["train"] |= {"root": str(tmp_path / "home/data/cifar10"), "known": "cifar10"}
    config["data"]["cache_dir"] = "~/.cache"
    config["net"]["weights"] = str(tmp_path / "home/start.pt")
    for part, keys in {"net": ("mean", "std"), "data": ("augmentation",)}.items():
        for key in keys:
            del config[part][key]
    config["optim"]["scheduler"] = None
    words = ["python", "-m", "src.train", f"data_dir={tmp_path}/home/my data", "net=resnet18"]
    words += [f"+data.x={{a: [{tmp_path}/home/a,b], c: '/home/c'}}", "d=s3://bucket/d"]
    (run / "config.yaml").write_text(f"# {shlex.join(words)}\n{yaml.safe_dump(config)}")
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    torch.save(checkpoint | {"config": config}, run / "checkpoints/last.ckpt")
    return run


def test_no_place_of_the_machine_is_given_away(elsewhere: Path, tmp_path: Path) -> None:
    path = release(elsewhere, tmp_path / "out").path
    config = torch.load(path, weights_only=True)["config"]
    card = path.with_suffix(".md").read_text()
    for text in (json.dumps(config), card):
        assert "home" not in text
        assert str(tmp_path) not in text
    assert config["data_dir"] == "data"
    assert config["data"]["train"]["root"] == "${data_dir}/cifar10"
    assert config["selection"]["history"] is True
    assert config["data"]["cache_dir"] == ".cache"
    assert "python -m src.train data_dir=PATH net=resnet18 " in card
    assert "'+data.x={a: [PATH,b], c: '\"'\"'PATH'\"'\"'}' d=s3://bucket/d" in card
    assert "root=${data_dir}/cifar10" in card
    assert "Trained on CIFAR-10" in card
    assert "logits = network(image)" in card


def test_the_input_is_normalised_as_in_the_training() -> None:
    state = {"network.mean": torch.tensor(0.4914), "network.net.a": torch.tensor(0.4914)}
    half = halved(state)
    assert half["network.mean"] is state["network.mean"]
    assert half["network.net.a"].dtype == torch.float16


def test_the_card_says_what_was_measured(released: Released, finished_run: Path) -> None:
    card = released.path.with_suffix(".md").read_text()
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert released.digest in card
    assert f"`{metrics['selected_block']}`" in card
    assert f"{100 * metrics['id_accuracy']:.2f} %" in card
    for name, sources in metrics["detectors"].items():
        numbers = [
            f"{100 * row['auroc']:.2f} / {100 * row['fpr95_id_pos']:.2f} / "
            f"{100 * row['fpr95_ood_pos']:.2f}"
            for row in sources.values()
        ]
        assert (f"| {name} | {' | '.join(numbers)} |\n" in card) == ("@" not in name)


def test_a_released_network_scores_as_the_trained_one_and_again_the_same(
    released: Released, finished_run: Path, command: Callable[..., None], tmp_path: Path
) -> None:
    source = f"{released.path}@sha256:{released.digest}"
    for name in ("one", "two"):
        command("src.evaluate", f"checkpoint={source}", f"hydra.run.dir={tmp_path / name}")
    runs = (finished_run, tmp_path / "one", tmp_path / "two")
    trained, one, two = (np.load(run / "scores.npz")["score"] for run in runs)
    assert (one == two).all()
    assert np.abs(one - trained).max() < 0.01 * trained.std()
    chosen = json.loads((finished_run / "metrics.json").read_text())["selected_block"]
    network = load_network(source)
    assert network.selected == chosen
    assert not network.training
    net = torch.load(released.path, weights_only=True)["config"]["net"]
    same = instantiate(OmegaConf.create(net), weights=str(released.path)).eval()
    image = torch.rand(2, *network.image_shape)
    assert torch.equal(network(image), same(image))


def test_the_card_says_how_to_load(released: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(released.path.parent)
    (code,) = re.findall(
        r"```python\n(.*?)```", released.path.with_suffix(".md").read_text(), re.DOTALL
    )
    names: dict[str, Any] = {"image": torch.rand(2, 1, 24, 24)}
    exec(code, names)
    assert names["score"].shape == (2,)


@pytest.fixture
def answers() -> list[str]:
    """What the server has said."""
    return []


@pytest.fixture
def address(
    released: Released, answers: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """Of the released file, as a server gives it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *said: Any) -> None:
            answers.append(str(said))

    handler = partial(Quiet, directory=str(released.path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{released.path.name}"
        server.shutdown()


@pytest.mark.parametrize("name", released_networks())
def test_a_network_that_this_project_gives_away_is_loaded_by_name(name: str) -> None:
    path = local_file(name)  # checks the digest
    assert path.stat().st_size < 25e6
    card = path.with_suffix(".md").read_text()
    assert released_networks()[name].partition("@sha256:")[2] in card
    network = load_network(name)
    assert f"| selected block | `{network.selected}`" in card
    seen = network.observe(torch.rand(2, *network.image_shape))
    assert seen.logits.isfinite().all()
    assert (seen.norm[network.selected] > 0).all()


def test_a_network_is_fetched_once_and_checked(address: str, released: Released) -> None:
    first = local_file(f"{address}@sha256:{released.digest}")
    assert first.read_bytes() == released.path.read_bytes()
    before = first.stat().st_mtime_ns
    assert local_file(f"{address}@sha256:{released.digest}").stat().st_mtime_ns == before
    assert load_network(f"{address}@sha256:{released.digest}").selected is not None


def test_other_bytes_are_refused_before_they_are_read(
    address: str, released: Released, tmp_path: Path
) -> None:
    wrong = "0" * 64
    with pytest.raises(ConnectionError, match=f"expected sha256 {wrong}, got {released.digest}"):
        local_file(f"{address}@sha256:{wrong}")
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]
    with pytest.raises(ValueError, match=f"expected sha256 {wrong}, got {released.digest}; fetch"):
        load_network(f"{released.path}@sha256:{wrong}")
    assert not list((tmp_path / "torch/hub/checkpoints").iterdir())
    for source in (address, f"{released.path}@sha256:", f"{released.path}@sha256:{'0' * 63}"):
        with pytest.raises(ValueError, match=r"expected a SHA-256 digest of 64 digits, .* got"):
            load_network(source)
    with pytest.raises(ValueError, match=r"expected an https address, got ftp://host/a.pt"):
        load_network(f"ftp://host/a.pt@sha256:{wrong}")


def test_processes_that_start_together_fetch_once(
    address: str, answers: list[str], released: Released, tmp_path: Path
) -> None:
    source = f"{address}@sha256:{released.digest}"
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(local_file, [source] * 4))
    assert list((tmp_path / "torch/hub/checkpoints").iterdir()) == list(paths)
    assert len(answers) == 1


def test_a_checkpoint_of_timm_downloads_nothing() -> None:
    net = OmegaConf.create({"net": {"_target_": "timm.create_model", "pretrained": True}})
    assert without_weights(net).net.pretrained is False
    assert net.net.pretrained


def test_what_cannot_be_released_is_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1e5, torch.nan):
        with pytest.raises(
            ValueError, match=r"expected weights within \+-65504, got (1e\+05|nan) in a"
        ):
            halved({"a": torch.tensor([number])})
    shutil.copytree(finished_run / "checkpoints", tmp_path / "run/checkpoints")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    assert "expected the directory of a finished training, got" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
