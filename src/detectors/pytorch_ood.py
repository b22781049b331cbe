"""Adapter that makes detectors of pytorch-ood columns of the benchmark."""

__all__ = ["PytorchOOD"]

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from src.detectors.base import Detector
from src.metrics.statistics import Bank, check_labels
from src.network import ForwardPass, Network

FIT_BATCH = 128  # images per batch for a detector that is fitted on images


class PytorchOOD(Detector):
    """A detector of pytorch-ood, with the logits, features or images that it asks for.

    Arguments of its constructor that are missing come from the network, by name: `model` (image ->
    logits), `encoder` (image -> feature), `backbone` (the same as a map of one position), `head`,
    its weight `w` and bias `b`, and `num_classes`. A detector that takes images runs the network
    itself, with gradients.

    Args:
        detector: Class of pytorch-ood, or a `functools.partial` of it with arguments. In a
            configuration: `{_target_: pytorch_ood.detector.KNN, _partial_: true, k: 10}`.
        bank_size: Number of ID images to fit on, chosen by hashed index. None takes all.

    Raises:
        ValueError: In `check`, if an argument of the constructor is missing or unknown, or the
            head does more than its weight and bias; in `update`, if an image is unlabelled.

    Source:
        Kirchheim, Filax and Ortmeier, "PyTorch-OOD: A Library for Out-of-Distribution Detection
        based on PyTorch", CVPR Workshops 2022, https://github.com/kkirchheim/pytorch-ood. Works
        with version 0.4 (`pip install -e .[pytorch-ood]`).
    Fitted on:
        All ID training images, with labels, if the detector requires a fit. The images are kept
        and saved; a loaded detector is fitted again when it first scores.
    Needs:
        Logits, penultimate feature or image.
    Differs:
        The scores are negated, so that higher = more in-distribution.
    """

    def __init__(self, detector: Callable[..., Any], *, bank_size: int | None = None) -> None:
        super().__init__()
        self.make, self.bank_size = detector, bank_size
        self.kind: Any = detector.func if isinstance(detector, partial) else detector
        self.takes = "image"
        for representation in ("logits", "features", "feature_maps"):
            if hasattr(self.kind, f"predict_{representation}"):
                self.takes = representation
        asked = signature(self.kind).parameters
        reads_weight = "head" in asked and asked["head"].annotation is nn.Linear
        self.needs_linear_head = "w" in asked or reads_weight
        self.bank = Bank(bank_size)
        self.made: Any = None
        self.learns("row", "label")

    def check(self, network: Network) -> None:
        """Checks that the constructor of pytorch-ood has all its arguments.

        Raises:
            ValueError: If an argument is missing or unknown.
        """
        super().check(network)
        try:
            signature(self.make).bind(**self._arguments(network))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"expected the arguments of {self.kind.__name__}, got: {error}; correct those in "
                "the configuration of the detector"
            ) from error

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether the detector of pytorch-ood requires a fit."""
        return bool(self.kind.requires_fit)

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds the input of the fit, with labels."""
        check_labels(label, seen.logits.shape[1])
        row = self._input(seen).flatten(1).float()
        self.bank.update(torch.cat([row, label[:, None]], dim=1), index)

    def fit(self, network: Network) -> None:
        """Fits the detector of pytorch-ood."""
        if self.is_fitted_on_data:
            row = self.bank.compute()
            self.row, self.label = row[:, :-1].clone(), row[:, -1].long()
        self.made = self._make(network)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negated outlier scores."""
        if self.made is None:
            self.made = self._make(seen.network)
        predict = getattr(self.made, f"predict_{self.takes}", self.made.predict)
        with torch.inference_mode(False), torch.set_grad_enabled(self.takes == "image"):
            score: Tensor = predict(self._input(seen).clone())
        return -score.detach().to(seen.logits.device)

    def _input(self, seen: ForwardPass) -> Tensor:
        match self.takes:
            case "logits":
                return seen.logits
            case "features":
                return seen.feature
            case "feature_maps":
                return seen.feature[:, :, None, None]
        return seen.image

    def _make(self, network: Network) -> Any:
        """Returns the detector of pytorch-ood, fitted if it requires a fit."""
        made = self.make(**self._arguments(network)).to(network.mean.device)
        if not self.is_fitted_on_data:
            return made
        if self.takes == "image":
            image = self.row.view(-1, *network.image_shape)
            return made.fit(DataLoader(TensorDataset(image, self.label), FIT_BATCH))
        return getattr(made, f"fit_{self.takes}")(self.row, self.label)

    def _arguments(self, network: Network) -> dict[str, Any]:
        """Returns the arguments of the constructor that come from the network."""

        def encode(image: Tensor) -> Tensor:
            return network.observe(image, keep_maps=False).feature

        def flat_head(feature: Tensor) -> Tensor:
            logits: Tensor = network.head(feature.flatten(1))
            return logits

        known = {
            "model": network,
            "encoder": encode,
            "backbone": lambda image: encode(image)[:, :, None, None],
            "head": flat_head if self.takes == "feature_maps" else network.head,
            "w": network.head.weight.detach(),
            "b": network.head.bias.detach() if network.head.bias is not None else None,
            "num_classes": network.num_classes,
        }
        return {
            name: known[name]
            for name, parameter in signature(self.make).parameters.items()
            if parameter.default is Parameter.empty and name in known
        }

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.made = None
        super()._load_from_state_dict(*arguments)

    def extra_repr(self) -> str:
        """Describes the class, its arguments and the bank."""
        given = self.make.keywords if isinstance(self.make, partial) else {}
        return f"{self.kind.__name__}, {given}, bank_size={self.bank_size}"
