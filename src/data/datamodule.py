"""The data of one experiment: training, held-out, test and OOD images."""

__all__ = ["ImageData"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from src.data.cache import load_cached
from src.data.codec import match_codec_of
from src.data.datasets import Batch, ImageSet, Source, StoredImages
from src.data.sampling import BatchSampler
from src.data.transforms import CropFlip

PARTS = {"train", "validation"}  # of the ID training images
RESERVED = {"id", "average"} | PARTS


class ImageData(L.LightningDataModule):
    """One ID data set and any number of OOD sets, held on the device as uint8 where they fit.

    Images reach the modules as float32 in [0, 1]; the network owns the normalisation.

    Args:
        train: source of the ID training images.
        test: source of the ID test images.
        ood: name -> source of the OOD images.
        batch_size: training images per batch and process.
        eval_batch_size: images per batch and process everywhere else.
        validation_size: training images held out for validation and block selection.
        augmentation: applied to the training batches only.
        seed: of the training order.
        split_seed: of the held-out part; one part for all seeds of training, unless set.
        workers: processes that decode the sets which are not held in memory.
        cache_dir: where decoded sets are kept for the next start; None decodes each time.
        protocol: name of the published benchmark that this is; "" for none.
        groups: name -> OOD sets that are averaged, such as near and far.
        match_codec: whether OOD images are compressed as the ID test images are, since a norm
            can tell JPEG from none; `codec_change` says what that did to them.

    Raises:
        ValueError: if a size is no positive number, the training set has no classes, the test
            set has others, an OOD set or group takes a reserved name, a group names no OOD set,
            or the ID images have no common codec to match.
    """

    def __init__(
        self,
        train: Source,
        test: Source,
        ood: Mapping[str, Source],
        *,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        validation_size: int = 5000,
        augmentation: CropFlip | None = None,
        seed: int = 0,
        split_seed: int = 0,
        workers: int = 0,
        cache_dir: str | Path | None = None,
        protocol: str = "",
        groups: Mapping[str, Sequence[str]] | None = None,
        match_codec: bool = False,
    ) -> None:
        super().__init__()
        for key, size in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("validation_size", validation_size),
        ):
            if not isinstance(size, int) or size < 1:
                raise ValueError(
                    f"expected data.{key} to be a whole number of at least 1, got {size!r}; set it"
                )
        if not train.classes or train.classes != test.classes:
            raise ValueError(
                "expected training and test images of the same classes, got "
                f"{len(train.classes)} {train.classes[:10]} and {len(test.classes)} "
                f"{test.classes[:10]}; check their sources"
            )
        self.groups = {name: tuple(members) for name, members in (groups or {}).items()}
        if reserved := RESERVED & {*ood, *self.groups} or set(ood) & set(self.groups):
            raise ValueError(
                f"expected OOD sets and groups of different names, none of {sorted(RESERVED)}, "
                f"got {sorted(reserved)}; rename them"
            )
        grouped = {member for members in self.groups.values() for member in members}
        if unknown := grouped - set(ood) or [
            name for name, each in self.groups.items() if not each
        ]:
            raise ValueError(
                f"expected groups of the OOD sets {', '.join(ood)}, got {sorted(unknown)}; leave "
                "a set out of data.groups where it is left out of data.ood"
            )
        self.named = {"train": train, "id": test, **ood}
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.validation_size, self.augmentation = validation_size, augmentation
        self.seed, self.split_seed, self.workers = seed, split_seed, workers
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.protocol = protocol
        self.codec_change = match_codec_of(test, ood) if match_codec else {}
        self.loaded: dict[str, ImageSet | StoredImages] = {}
        self.sets: dict[str, dict[str, Any]] = {}  # what became of each set, for the report
        self.image_shape: tuple[int, ...] | None = None  # that all images must have
        self.tested: tuple[str, ...] = self.sources  # what the test loop runs over

    @property
    def num_classes(self) -> int:
        """Number of ID classes."""
        return len(self.named["train"].classes)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the test loaders, in their order: `id`, then the OOD sets."""
        return tuple(name for name in self.named if name != "train")

    def test_on(self, names: Sequence[str]) -> None:
        """Sets what the test loop runs over, in this order.

        Args:
            names: Names of `sources`; "train" or "validation" for a part of the ID training
                images, in evaluation order.
        """
        self.tested = tuple(names)

    def check_network(self, num_classes: int, image_shape: Sequence[int]) -> None:
        """Refuses a network with another number of classes, and later images of another shape.

        Args:
            num_classes: of the network.
            image_shape: (C, H, W) that `setup` will expect of every set.

        Raises:
            ValueError: if the images have other than `num_classes` classes.
        """
        self.image_shape = tuple(image_shape)
        if num_classes != self.num_classes:
            raise ValueError(
                f"expected a network of {self.num_classes} classes, as the ID images have, got "
                f"one of {num_classes}; choose data and net (or the checkpoint) that belong "
                "together"
            )

    def prepare_data(self) -> None:
        """Downloads what is missing, and decodes what will be cached, on one process."""
        for source in self.named.values():
            source.prepare()
            if self.cache_dir and self.trainer and self.trainer.world_size > 1:
                load_cached(source, self.cache_dir)

    def setup(self, stage: str) -> None:
        """Decodes all that was not decoded before, so that what is wrong shows before training.

        Raises:
            ValueError: if `validation_size` leaves no training or no validation image, if the
                rest fills no batch, if images cannot be decoded or have another shape than the
                network's, or if an OOD set has the images of the ID test set.
        """
        needs_training = stage != "test" or not PARTS.isdisjoint(self.tested)
        for name in self.named if needs_training else self.sources:
            self._check_shape(name, self._decoded(name))
        if stage == "fit":
            self.train_dataloader()
        for name in self.sources[1:]:
            if name in self.sets and self.sets[name]["sha256"] == self.sets["id"]["sha256"]:
                raise ValueError(
                    f"expected OOD images, got in {name!r} the very images of the ID test set; "
                    f"correct data.ood.{name}"
                )

    def facts(self, scored: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Returns protocol, groups and what became of each set, for the report.

        Args:
            scored: how many images of a set got a score, after a whole benchmark: of sets that
                are decoded when used, the others were skipped.
        """
        groups = {name: list(members) for name, members in self.groups.items()}
        sets = {name: dict(each) for name, each in self.sets.items()}
        for name, count in (scored or {}).items():
            if isinstance(self.loaded[name], StoredImages):
                sets[name]["skipped"] = sets[name]["images"] - count
        classes = [str(name) for name in self.named["id"].classes]
        return {"protocol": self.protocol, "groups": groups, "classes": classes, "sets": sets} | (
            {"codec_change": self.codec_change} if self.codec_change else {}
        )

    def pictures(self, name: str, index: Tensor) -> Tensor:
        """Returns (n, C, H, W) uint8 images of a set on the CPU, by their positions in it."""
        return self._images(name)[index].image.cpu()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns the training part, shuffled; the only loader that is augmented.

        Raises:
            ValueError: if corrupt images are to be skipped that are decoded when used.
        """
        images = self._part("train")
        if isinstance(images, StoredImages) and images.files.on_corrupt == "skip":
            raise ValueError(
                "expected training images that are all whole where they are decoded when used, "
                "got on_corrupt=skip; remove the corrupt ones (python -m src.data verify=true "
                "names them), or set in_memory=true"
            )
        return self._loader(images, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Returns the held-out part of the training images."""
        return self._loader(self._part("validation"), self.eval_batch_size)

    def fit_dataloader(self) -> DataLoader[Batch]:
        """Returns the training part in evaluation order."""
        return self._loader(self._part("train"), self.eval_batch_size)

    def selection_dataloader(self) -> DataLoader[Batch]:
        """Returns all training images, on which the authors' code selects the block."""
        return self._loader(self._images("train"), self.eval_batch_size)

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Returns one loader for each name given to `test_on`; by default those of `sources`."""
        images = [self._part(n) if n in PARTS else self._images(n) for n in self.tested]
        return [self._loader(each, self.eval_batch_size) for each in images]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Returns the batch with float32 images in [0, 1], augmented while training."""
        image = batch.image
        if self.trainer and self.trainer.training and self.augmentation:
            image = self.augmentation(image, batch.index, self.trainer.current_epoch)
        return batch._replace(image=image.float().div_(255))

    def _check_shape(self, name: str, images: ImageSet | StoredImages) -> None:
        if len(images) == 0:
            raise ValueError(f"expected images in {name!r}, got none; correct its source")
        shape = tuple(images[torch.zeros(1, dtype=torch.int64)].image.shape[1:])
        if self.image_shape not in (None, shape):
            raise ValueError(
                f"expected images of shape {self.image_shape}, as net.image_shape says, got "
                f"{shape} in {name!r}; make the size of its source and net.image_shape agree"
            )

    def _decoded(self, name: str) -> ImageSet | StoredImages:
        """Returns a set, decoded the first time."""
        if name not in self.loaded:
            images = self.loaded[name] = load_cached(self.named[name], self.cache_dir)
            self.sets[name] = {
                "images": len(images),
                "skipped": getattr(images, "skipped", 0),
                "view": str(getattr(self.named[name], "view", "as it comes")),
                "sha256": images.sha256,
            }
            if name == "train":
                self.loaded[name] = self._held_out_first(self.loaded[name])
        return self.loaded[name]

    def _images(self, name: str) -> ImageSet | StoredImages:
        """Returns a decoded set on the trainer's device."""
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        self.loaded[name] = self._decoded(name).to(device)
        return self.loaded[name]

    def _held_out_first(self, images: ImageSet | StoredImages) -> ImageSet | StoredImages:
        """Returns the set permuted by the seed, so that both parts are views of its memory."""
        if not 1 <= self.validation_size < len(images):
            raise ValueError(
                f"expected data.validation_size within 1..{len(images) - 1}, as there are "
                f"{len(images)} training images, got {self.validation_size}; set it"
            )
        generator = torch.Generator().manual_seed(self.split_seed)
        return images.subset(torch.randperm(len(images), generator=generator))

    def _part(self, part: str) -> ImageSet | StoredImages:
        held_out = slice(None, self.validation_size)
        rest = slice(self.validation_size, None)
        return self._images("train").subset(held_out if part == "validation" else rest)

    def _loader(
        self, images: ImageSet | StoredImages, batch_size: int, *, shuffle: bool = False
    ) -> DataLoader[Batch]:
        sampler = BatchSampler(
            len(images),
            batch_size,
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
            shuffle=shuffle,
            seed=self.seed,
        )
        if shuffle and self.trainer:  # of a resumed training, whose workers draw before it is told
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.ready)
        stored = isinstance(images, StoredImages)  # what is in memory may be on the device
        return DataLoader(
            images,
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers if stored else 0,
            pin_memory=stored and torch.cuda.is_available(),
        )
