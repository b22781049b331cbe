"""The network: images in, logits and the feature maps of its blocks out."""

__all__ = ["Network"]

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from src.metrics.norm_ratio import feature_norm
from src.network.blocks import Place
from src.network.dry_run import dry_run
from src.network.forward_pass import ForwardPass, Reader, Unreached
from src.network.head import FeatureTemperature, head_logits, logits_in
from src.network.tracing import tap
from src.network.weights import load_weights
from src.records.selection import CRITERIA, select

ANGLES = 4  # by which an image can be turned: 0, 90, 180 and 270 degrees

_Look = tuple[Tensor, dict[tuple[str, Reader], Tensor], Tensor | None]


class _CutError(Exception):
    """Ends a forward pass behind the block at which the network is cut."""


class Network(nn.Module):
    """A classifier that owns its input normalisation, its blocks and its block selection.

    A dry run at construction finds or checks the blocks, sorts them into execution order and
    determines how to read their outputs (`places`), so that maps and tokens of every layout
    appear as (B, C, H, W). It also runs training mode once, where some networks return more.

    Args:
        net: Classifier that maps normalised images (B, C, H, W) to logits (B, K) and ends in
            `nn.Linear` or a subclass. It may return them as `logits` of a model output, or first
            in a tuple; the rest, such as the output of auxiliary heads, is not used.
        blocks: Candidate blocks: a regular expression over module paths, or a list of paths. None
            uses `propose_blocks`.
        image_shape: (C, H, W) of the images.
        mean: Mean of all channels or of each, subtracted from images in [0, 1].
        std: Standard deviation of all channels or of each, by which they are then divided.
        weights: Weights to load into `net`: a file, or a name in torchvision such as
            "ResNet50_Weights.IMAGENET1K_V1".
        feature_temperature: Divides the penultimate feature; while training, so does its norm
            (T2FNorm). None leaves it as it is.
        rotation_head: Whether a second head tells by which angle an image was turned (RotPred).

    Attributes:
        measured: Criterion -> block -> value, of NormRatio and of the criterion that selects the
            block; empty before a selection. The last one selects.
        head_is_linear: Whether the head is its weight times the feature plus its bias, and no
            more. Not so a cosine head or one with a scale.

    Raises:
        ValueError: If the net does not take such images, a block does not exist, does not run
            exactly once or does not return a feature map, if no linear layer produces the logits,
            if they are not finite or those of training have another shape, or if the weights do
            not fit.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> network = Network(net, blocks=["1"], image_shape=(1, 8, 8))
        >>> network.observe(torch.rand(5, 1, 8, 8)).norm["1"].shape
        torch.Size([5])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        blocks: str | Sequence[str] | None = None,
        *,
        image_shape: Sequence[int] = (3, 32, 32),
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        weights: str | Path | None = None,
        feature_temperature: float | None = None,
        rotation_head: bool = False,
    ) -> None:
        super().__init__()
        if weights is not None:
            load_weights(net, weights)
        self.net = net
        self.image_shape = tuple(image_shape)
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(
                f"expected image_shape to be channels, height and width, got {self.image_shape}; "
                "set it to those of the images"
            )
        self.register_buffer("mean", _per_channel(mean, self.image_shape[0]))
        self.register_buffer("std", _per_channel(std, self.image_shape[0]))
        self._look_at(blocks)
        if feature_temperature is not None:
            scaled = nn.Sequential(FeatureTemperature(feature_temperature), self.head)
            net.set_submodule(self.head_path, scaled)
            self._look_at(blocks)
        self.rotation_head = nn.Linear(self.head.in_features, ANGLES) if rotation_head else None
        self.measured: dict[str, dict[str, float]] = {}

    @property
    def blocks(self) -> tuple[str, ...]:
        """Module paths of the blocks, in execution order."""
        return tuple(self.places)

    @property
    def head(self) -> nn.Linear:
        """The last linear layer: penultimate feature (B, D) -> logits (B, K)."""
        return self.net.get_submodule(self.head_path)  # type: ignore[return-value]

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (B, K) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = logits_in(self.net((image - self.mean) / self.std))
        return logits

    def class_and_angle(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits (B, K) of the classes and (B, 4) of the angles, in one forward pass.

        Raises:
            RuntimeError: If the network has no rotation head.
        """
        with tap(self.net, {self.head_path: lambda inputs, _: inputs[0]}) as head:
            logits = self(image)
            return logits, self.angle_of(head[self.head_path])

    def angle_of(self, feature: Tensor) -> Tensor:
        """Returns the (B, 4) logits of the angles, of penultimate features (B, D).

        Raises:
            RuntimeError: If the network has no rotation head.
        """
        if self.rotation_head is None:
            raise RuntimeError(
                "expected a network with a rotation head, got one without; train with "
                "objective=rot_pred"
            )
        angle: Tensor = self.rotation_head(feature)
        return angle

    def logits_of(self, feature: Tensor) -> Tensor:
        """Returns the (B, K) logits of penultimate features (B, D), in the feature's precision.

        The head's own forward computes them, whatever it does.
        """
        return head_logits(self.head, feature)

    def observe(
        self,
        image: Tensor,
        *,
        keep_maps: bool = True,
        read: Iterable[tuple[str, Reader]] = (),
        until: str | None = None,
    ) -> ForwardPass:
        """Runs one forward pass and returns what detectors need of it.

        Args:
            image: (B, C, H, W) in [0, 1].
            keep_maps: Whether to keep the feature map of every block. Without them, the memory is
                that of a plain forward pass.
            read: (block, reader) pairs: results to compute from single maps as soon as they exist.
            until: Block behind which the network is cut: what follows is not run. The pass then
                has no logits and no feature, and nothing of later blocks.
        """
        readers: dict[str, list[Reader]] = {block: [] for block in self.places}
        for block, reader in dict.fromkeys(read):
            readers[block].append(reader)

        def look_at(block: str, place: Place) -> Callable[[Any, Tensor], _Look]:
            def look(_: tuple[Any, ...], output: Tensor) -> _Look:
                feature_map = place.feature_map(output)
                norm = feature_norm(feature_map)
                reading = {(block, reader): reader(feature_map) for reader in readers[block]}
                if not keep_maps:
                    return norm, reading, None
                return norm, reading, feature_map.clone() if place.overwritten else feature_map

            return look

        def leave(*_: object) -> None:
            raise _CutError

        behind = {} if until is None else {self.block(until): leave}
        logits = feature = cast(Tensor, Unreached())
        with (
            tap(self.net, {b: look_at(b, place) for b, place in self.places.items()}) as seen,
            tap(self.net, {self.head_path: lambda inputs, _: inputs[0]}) as head,
            tap(self.net, behind),
            suppress(_CutError),
        ):
            logits = self(image)
            feature = head[self.head_path]
        return ForwardPass(
            image,
            logits,
            feature,
            {block: value for block, (_, _, value) in seen.items() if value is not None},
            {block: norm for block, (norm, _, _) in seen.items()},
            self,
            {key: value for _, reading, _ in seen.values() for key, value in reading.items()},
        )

    def observe_norms(self) -> Any:
        """Opens hooks on the blocks: a `tap` that maps each block to its (B,) FeatureNorm."""

        def look_at(place: Place) -> Callable[[Any, Tensor], Tensor]:
            return lambda _, output: feature_norm(place.feature_map(output))

        return tap(self.net, {block: look_at(place) for block, place in self.places.items()})

    @contextmanager
    def changed(self, block: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Inside this context, `change` replaces the output of the block in every forward pass."""
        module = self.net.get_submodule(block)
        hook = module.register_forward_hook(lambda _module, _inputs, output: change(output))
        try:
            yield
        finally:
            hook.remove()

    @property
    def norm_ratio(self) -> dict[str, float]:
        """NormRatio of each block, empty before a selection; if it is set, it selects."""
        return self.measured.get("norm_ratio", {})

    @norm_ratio.setter
    def norm_ratio(self, value: dict[str, float]) -> None:
        self.measured = {"norm_ratio": value} if value else {}

    @property
    def criterion(self) -> str:
        """Name of the criterion that selects the block; "norm_ratio" before a selection."""
        return list(self.measured)[-1] if self.measured else "norm_ratio"

    @property
    def selected(self) -> str | None:
        """The block of largest criterion, the deeper one on a tie; None before selection."""
        if not self.measured:
            return None
        value = self.measured[self.criterion]
        return self.blocks[int(select([value[block] for block in self.blocks]))]

    def block(self, at: str) -> str:
        """Returns the module path that `at` means: a block's own path, or "selected".

        Raises:
            ValueError: If there is no such block.
            RuntimeError: If `at` is "selected" and none has been selected.
        """
        if at == "selected":
            if self.selected is None:
                raise RuntimeError(
                    "no block selected; train with BlockSelection, run evaluate with a "
                    "selection, or set at: <block>"
                )
            return self.selected
        if at not in self.blocks:
            raise ValueError(
                f"expected a block of {type(self.net).__name__}, got {at!r}; "
                f"blocks are {', '.join(self.blocks)}"
            )
        return at

    def get_extra_state(self) -> dict[str, Any]:
        """Returns what is saved with the weights: {block: NormRatio}, empty before a selection.

        If another criterion selects, it is {"norm_ratio": {block: value}, criterion: {...}}.
        """
        return {**(self.norm_ratio if len(self.measured) < 2 else self.measured)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores a selection; a network with other blocks refuses it."""
        is_named = len(state) == 2 and all(isinstance(each, dict) for each in state.values())
        measured = state if is_named else {"norm_ratio": state} if state else {}
        if [*measured][:1] not in ([], ["norm_ratio"]) or not {*measured} <= {*CRITERIA}:
            raise ValueError(
                f"expected NormRatio and one of {', '.join(CRITERIA)}, got {', '.join(measured)}; "
                "update to the version that trained this network"
            )
        for name, value in measured.items():
            if set(value) != set(self.blocks):
                raise ValueError(
                    f"expected {CRITERIA[name]} of the blocks {', '.join(self.blocks)}, got "
                    f"{', '.join(value)}; load into the network that was trained"
                )
        self.measured = {
            name: {block: value[block] for block in self.blocks}
            for name, value in measured.items()
        }

    def _look_at(self, blocks: str | Sequence[str] | None) -> None:
        found = dry_run(self, self.net, self.image_shape, blocks, self.mean.device)
        self.head_path, self.head_is_linear, self.num_classes, self.places = found


def _per_channel(value: float | Sequence[float], channels: int) -> Tensor:
    values = [value] * channels if isinstance(value, int | float) else list(value)
    if len(values) != channels:
        raise ValueError(
            f"expected mean and std of {channels} channels, got {len(values)} values; "
            "make them agree with image_shape"
        )
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
