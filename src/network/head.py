"""The head of a network: which module it is, and what it does with a feature."""

__all__ = [
    "FeatureTemperature",
    "call_of_head",
    "find_head",
    "head_logits",
    "is_linear",
    "logits_in",
]

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from src.network.tracing import Call

ROUNDING = 0.01  # of logits in float32 or less, relative to the largest
SCALES = (0.01, 1.0, 10.0, 1000.0)  # of the random features that a head is tried on


def logits_in(output: Any) -> Any:
    """Returns the logits in what a classifier returned: all of it, or what has that name.

    In a plain tuple they come first; features or the logits of auxiliary heads follow.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return output.get("logits")
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, tuple | list) and output else output


def call_of_head(root: Call, logits: Any) -> Call | None:
    """Returns the call of the `nn.Linear` whose output is the logits, with nothing behind it."""
    for call in root:
        output, version = call.output
        if (
            isinstance(call.module, nn.Linear)
            and isinstance(output, Tensor)
            and isinstance(logits, Tensor)
            and logits.dim() == 2
            and output.shape == logits.shape
            and output.data_ptr() == logits.data_ptr()
            and output._version == version
        ):
            return call
    return None


def find_head(root: Call, logits: Any) -> Call:
    """Returns the call of the head, after it was called again.

    Args:
        root: Trace of the network, which must still be in evaluation mode.
        logits: What it returned.

    Raises:
        ValueError: If no `nn.Linear` comes last, the logits are not finite, or the last one runs
            more than once, takes more than the feature or returns other logits for the same one.
    """
    head = call_of_head(root, logits)
    if head is None:
        raise ValueError(
            "expected a network whose last step is an nn.Linear that returns the logits (B, K), "
            f"got {type(root.module).__name__}, where none does (it returns a "
            f"{type(root.output[0]).__name__}); wrap it so that its head comes last"
        )
    if not logits.isfinite().all():
        raise ValueError(
            f"expected finite logits of random images, got NaN or infinity of "
            f"{type(root.module).__name__}; load other weights, or correct its initialisation"
        )
    runs = sum(call.module is head.module for call in root)
    if runs != 1:
        raise ValueError(
            f"expected the head {head.path!r} to run once in a forward pass, it ran {runs} times; "
            "wrap the network so that it returns the logits of one pass"
        )
    name = f"{type(head.module).__name__} at {head.path!r}"
    try:
        again = head_logits(head.module, head.inputs[0][0].double())
    except Exception as error:  # a head can raise anything
        raise ValueError(
            f"expected a head that takes a feature (B, D), also in float64, got {name}, which "
            f"raised {type(error).__name__}: {error}; give it one input, and cast nothing in it"
        ) from error
    if (again - logits).abs().max() > ROUNDING * logits.abs().max():
        raise ValueError(
            f"expected a head whose logits follow from its input, got {name}, which returned "
            "others for the same input; wrap the network so that a deterministic layer comes last"
        )
    return head


class FeatureTemperature(nn.Module):
    r"""Divides a feature by a temperature and, while training, by its norm.

    So training cannot lower its loss by larger features, and their norm is left to tell ID from
    OOD. The logits are \(W h / (\tau \|h\|) + b\) while training, \(W h / \tau + b\) at test time.
    The temperature is a buffer, so that weights cannot be loaded without it.

    Args:
        temperature: \(\tau\), above 0.

    Raises:
        ValueError: If the temperature is not positive.

    Source:
        Regmi et al., "T2FNorm: Train-time Feature Normalization for OOD Detection in Image
        Classification", CVPR Workshops 2024, https://arxiv.org/abs/2305.17797, with their 0.1.
    """

    temperature: Tensor

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(
                f"expected a feature_temperature above 0, got {temperature}; the authors use 0.1"
            )
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(self, feature: Tensor) -> Tensor:
        """Returns features (B, D) of the same shape."""
        if self.training:
            feature = F.normalize(feature.float(), dim=1)
        return feature / self.temperature


def head_logits(head: nn.Module, feature: Tensor) -> Tensor:
    """Returns the (B, K) logits of features (B, D) by the head's forward, in their precision."""
    logits: Tensor = functional_call(head, _in_precision(head, feature.dtype), (feature,))
    return logits


def is_linear(head: nn.Module, feature: Tensor) -> bool:
    """Whether a head returns its weight times the feature plus its bias, and always will.

    It is tried with random parameters, as training may change them: a scale that is 1 and an
    update that is 0 at first show too.

    Args:
        head: Module with `weight` and `bias`.
        feature: (B, D) features; only their width and device count.
    """
    both = _Both(head)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return values.to(feature.device)

    state = _in_precision(both, torch.float64)
    state |= {name: drawn(*value.shape) for name, value in both.named_parameters()}
    tried = drawn(len(SCALES), feature.shape[1]) * feature.new_tensor(SCALES)[:, None]
    try:
        returned, expected = functional_call(both, state, (tried,))
    except Exception:  # the weight is laid out in another way
        return False
    return returned.shape == expected.shape and torch.allclose(returned, expected)


class _Both(nn.Module):
    """What a head returns, and what its weight and bias alone would return."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(feature), F.linear(feature, self.head.weight, self.head.bias)


def _in_precision(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a module, numbers with fractions in a precision."""
    own = chain(module.named_parameters(), module.named_buffers())
    return {name: value.to(dtype) for name, value in own if value.is_floating_point()}
