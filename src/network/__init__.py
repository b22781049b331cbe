"""A classifier whose blocks can be observed, whatever it was built from.

`Network` wraps any classifier; `observe` returns a `ForwardPass`, all that a detector may look at.
"""

__all__ = ["Call", "ForwardPass", "Network", "Place", "Reader", "load_weights", "tap", "trace"]

from src.network.blocks import Place
from src.network.network import ForwardPass, Network, Reader
from src.network.tracing import Call, tap, trace
from src.network.weights import load_weights
