"""What a file describes, built again: a network within the size of its weights, a detector."""

__all__ = ["check_measured", "detector_of", "network_of"]

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from src.detectors import Detector
from src.network import Network
from src.records.selection import CRITERIA
from src.run.targets import nodes

MOST_TIMES, SMALL = 8, 10**7  # of the weights in a file: what its network may take before it loads
LARGEST = 2**17  # class, channel or pixel in a network that a file describes


def network_of(
    net: DictConfig | Mapping[str, Any], state: Mapping[str, Any], source: object
) -> Network:
    """Returns a network as a checkpoint describes it, without its weights.

    Before any memory is taken, the number of its weights is compared with that of the file.

    Raises:
        ValueError: If it cannot be built, or is far larger than the weights in the file.
    """
    net = net if isinstance(net, DictConfig) else OmegaConf.create(dict(net))
    given = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    try:
        largest = max(_numbers(OmegaConf.to_container(net, resolve=True)), default=0)
        if largest > LARGEST:
            raise ValueError(f"expected sizes of at most {LARGEST}, got {largest}")
        planned = _planned(net.net)
        if planned > MOST_TIMES * given + SMALL:
            raise ValueError(f"expected a network of about {given} weights, got {planned}")
        network: Network = instantiate(net)
        if not isinstance(network, Network):
            raise TypeError(f"expected a Network, got {type(network).__name__}")
    except Exception as error:
        raise ValueError(
            f"expected a network that can be built as its checkpoint describes it, got {source}: "
            f"{_first_line(error)}; leave out net=, since a checkpoint brings its own, or fetch "
            "it again"
        ) from None
    return network


def _planned(net: DictConfig) -> int:
    """Returns the number of a network's weights, without memory for them."""
    try:
        with torch.device("meta"):
            return sum(value.numel() for value in instantiate(net).state_dict().values())
    except Exception:  # some compute while they build; then the real one says what is wrong
        return 0


def _numbers(config: Any) -> Iterator[float]:
    """Yields every number of a plain configuration."""
    return (abs(node) for _, node in nodes(config) if isinstance(node, int | float))


def _first_line(error: Exception) -> str:
    """Returns what went wrong, without Hydra's words around it."""
    cause = error.__cause__ if isinstance(error, InstantiationException) else error
    return str(cause).partition("\n")[0][:300]


def check_measured(network: Network, source: object) -> None:
    """Refuses a selection of which a block's value is no number.

    Raises:
        ValueError: If there is one.
    """
    for name, values in network.measured.items():
        least = -sys.float_info.max if name == "paired_t" else 0
        broken = [block for block, value in values.items() if not _is_number(value, least)]
        if broken:
            raise ValueError(
                f"expected {CRITERIA[name]} that is a number, got another in {broken[0]} of "
                f"{source}; fetch it again, or take an earlier checkpoint of that training"
            )


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and least <= value <= sys.float_info.max


def detector_of(config: Mapping[str, Any], source: object) -> Detector:
    """Returns a detector as a file describes it, not fitted.

    Raises:
        ValueError: If it cannot be built, or is no detector.
    """
    try:
        detector = instantiate(OmegaConf.create(dict(config)))
        if not isinstance(detector, Detector):
            raise TypeError(f"expected a Detector, got {type(detector).__name__}")
    except Exception as error:
        raise ValueError(
            f"expected a detector that can be built as its file describes it, got {source}: "
            f"{_first_line(error)}; make the file again"
        ) from None
    return detector
