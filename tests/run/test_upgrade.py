"""Configurations of earlier versions are brought up to date in one place."""

from copy import deepcopy
from typing import Any

import torch

from src.run import load_network, released_networks
from src.run.upgrade import upgraded
from tests import REPOSITORY

OLD: dict[str, Any] = {
    "optim": {"interval": "step", "channels_last": True, "compiled": False},
    "selection": {"split": "validation", "history": "${run_dir}/norm_ratio.csv"},
    "detectors": {
        "a": {"_target_": "src.detectors.SelectedNorm", "match_length": True},
        "b": {"_target_": "src.detectors.SelectedNorm", "match_length": False, "at": "x"},
        "c": {
            "_target_": "src.detectors.Perturbed",
            "detector": {"_target_": "src.detectors.NormProduct", "standardize": True},
        },
        "norm@each_block": {"_target_": "src.detectors.FeatureNorm", "at": "each_block"},
    },
    "trainer": {"max_epochs": 1},
}


def test_every_change_since_format_1_is_made_once() -> None:
    kept = deepcopy(OLD)
    new = upgraded(OLD)
    assert kept == OLD
    assert new["optim"] == {"interval": "step"}
    assert (new["channels_last"], new["compiled"]) == (True, False)
    assert new["selection"] == {"split": "validation", "history": True}
    assert new["trainer"] == {"max_epochs": 1, "enable_progress_bar": True}
    assert new["detectors"] == {
        "a": {"_target_": "src.detectors.MatchedNorm"},
        "b": {"_target_": "src.detectors.SelectedNorm", "at": "x"},
        "c": {
            "_target_": "src.detectors.Perturbed",
            "detector": {"_target_": "src.detectors.StandardizedNormProduct"},
        },
        "norm_each_block": {"_target_": "src.detectors.FeatureNorm", "at": "each_block"},
    }
    assert upgraded(new) == new


def test_callbacks_have_their_present_names() -> None:
    old = {"ema": {"_target_": "src.weight_averaging.EMA", "decay": 0.9}}
    new = upgraded({"trainer": {"callbacks": old}})["trainer"]["callbacks"]
    assert new == {"ema": {"_target_": "src.callbacks.EMA", "decay": 0.9}}


def test_a_configuration_without_selection_has_none() -> None:
    assert upgraded({"optim": {}})["selection"] is None
    assert upgraded({"selection": {}})["selection"] is None


def test_all_released_networks_load() -> None:
    for name in released_networks():
        network = load_network(name)
        assert network.selected in network.blocks
        with torch.no_grad():
            assert network(torch.rand(2, *network.image_shape)).isfinite().all()
    assert len(list((REPOSITORY / "weights").glob("*.pt"))) == len(released_networks()) == 3
