"""A classifier whose blocks can be observed.

`Network` wraps any classifier; `observe` returns a `ForwardPass`, the only input of a detector.
"""

__all__ = ["Call", "ForwardPass", "Network", "Place", "Reader", "load_weights", "tap", "trace"]

from src.network.blocks import Place
from src.network.forward_pass import ForwardPass, Reader
from src.network.network import Network
from src.network.tracing import Call, tap, trace
from src.network.weights import load_weights
