"""The images of an experiment: training, held-out, test and OOD images."""

__all__ = ["ImageData"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from src.data.augmentation import Augmentation
from src.data.cache import load_cached
from src.data.checks import (
    PARTS,
    check_calibration,
    check_classes,
    check_groups,
    check_images,
    check_names,
    check_sizes,
    check_stored,
    tell_notes,
)
from src.data.codec import match_codec_of
from src.data.datasets import Batch, ImageSet, Source, StoredImages
from src.data.files import digest
from src.data.mixing import Mixing
from src.data.sampling import BatchSampler, held_out_first


class ImageData(L.LightningDataModule):
    """An ID data set and any number of OOD sets, held on the device as uint8 if they fit.

    Modules receive images as float32 in [0, 1]. The network normalises them.

    Args:
        train: Source of the ID training images.
        test: Source of the ID test images.
        ood: Name of each OOD set -> source of its images.
        batch_size: Number of training images per batch and process.
        eval_batch_size: Number of images per batch and process in all other loaders.
        validation_size: Number of training images held out for validation and block selection.
        calibration_size: Number of the held-out images that are kept for calibration alone, and
            neither validate nor select.
        augmentation: Augmentation of the training batches; None for none.
        seed: Seed of the training order.
        split_seed: Seed of the held-out part. The default gives all training seeds the same part.
        workers: Number of processes that decode the sets that are not held in memory.
        cache_dir: Folder of the cache of decoded sets; None decodes them in each run.
        protocol: Name of the published benchmark; "" for none.
        groups: Name of each group -> OOD sets to average, such as near and far.
        match_codec: Whether OOD images are compressed with the codec of the ID test images, since
            a norm can react to JPEG. `codec_change` holds the resulting change of the pixels.
        mixing: Mixture of the augmented training images with each other; None for none.

    Raises:
        ValueError: If a size is not a positive integer, if no held-out image is left beside those
            that calibrate, if the training images have no classes or
            others than the test images, if an OOD set or group has a reserved name, if a group is
            empty or names an unknown OOD set, or if the ID images have no common codec to match.
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
        augmentation: Augmentation | None = None,
        seed: int = 0,
        split_seed: int = 0,
        workers: int = 0,
        cache_dir: str | Path | None = None,
        protocol: str = "",
        groups: Mapping[str, Sequence[str]] | None = None,
        match_codec: bool = False,
        calibration_size: int = 0,
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__()
        check_sizes(
            batch_size=batch_size, eval_batch_size=eval_batch_size, validation_size=validation_size
        )
        check_calibration(calibration_size, validation_size)
        check_classes(train.classes, test.classes)
        check_names(ood, groups or {})
        ood = {str(name): source for name, source in ood.items()}  # a year is a name, too
        self.groups = {str(name): tuple(map(str, each)) for name, each in (groups or {}).items()}
        check_groups(ood, self.groups)
        self.named = {"train": train, "id": test, **ood}
        tell_notes(self.named)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.validation_size, self.calibration_size = validation_size, calibration_size
        self.augmentation, self.mixing = augmentation, mixing
        self.seed, self.split_seed, self.workers = seed, split_seed, workers
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.protocol = protocol
        self.codec_change = match_codec_of(test, ood) if match_codec else {}
        self.loaded: dict[str, ImageSet | StoredImages] = {}
        self.sets: dict[str, dict[str, Any]] = {}  # facts about each set, for the report
        self.image_shape: tuple[int, ...] | None = None  # required of all images
        self.tested: tuple[str, ...] = self.sources  # what the test loop runs over

    @property
    def num_classes(self) -> int:
        """Number of ID classes."""
        return len(self.named["train"].classes)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the test loaders in their order: `id`, then the OOD sets."""
        return tuple(name for name in self.named if name != "train")

    def test_on(self, names: Sequence[str]) -> None:
        """Sets what the test loop runs over, in this order.

        Args:
            names: Names of `sources`; "train", "validation" or "calibration" for a part of the ID
                training images, in evaluation order.
        """
        self.tested = tuple(names)

    def images(self, name: str) -> int:
        """Returns the number of images of a decoded set or part."""
        images: int = self.sets["train" if name in PARTS else name]["images"]
        return len(range(images)[self._rows(name)]) if name in PARTS else images

    def batches(self, name: str) -> int:
        """Returns the number of batches, per process, of a set or part in evaluation order."""
        processes = self.trainer.world_size if self.trainer else 1
        return -(-self.images(name) // (self.eval_batch_size * processes))

    def check_network(self, num_classes: int, image_shape: Sequence[int]) -> None:
        """Refuses a network with another number of classes, and `setup` images of another shape.

        Args:
            num_classes: Number of classes of the network.
            image_shape: (C, H, W) that `setup` requires of every set.

        Raises:
            ValueError: If the images do not have `num_classes` classes.
        """
        self.image_shape = tuple(image_shape)
        if num_classes != self.num_classes:
            raise ValueError(
                f"expected a network of {self.num_classes} classes, as the ID images have, got "
                f"one of {num_classes}; choose data and net (or the checkpoint) that belong "
                "together"
            )

    def prepare_data(self) -> None:
        """Downloads missing images, and fills the cache, on one process."""
        for source in self.named.values():
            source.prepare()
            if self.cache_dir and self.trainer and self.trainer.world_size > 1:
                load_cached(source, self.cache_dir)

    def setup(self, stage: str) -> None:
        """Decodes all sets that are not decoded yet, so that errors appear before training.

        Raises:
            ValueError: If `validation_size` leaves no training or no validation image, if the
                training images do not fill a batch, if images cannot be decoded or have another
                shape than the network requires, or if an OOD set equals the ID test set.
        """
        needs_training = stage != "test" or not PARTS.isdisjoint(self.tested)
        for name in self.named if needs_training else self.sources:
            check_images(name, self._decoded(name), self.image_shape)
        if stage == "fit":
            self.train_dataloader()
        for name in self.sources[1:]:
            if name in self.sets and self.sets[name]["sha256"] == self.sets["id"]["sha256"]:
                raise ValueError(
                    f"expected OOD images, got in {name!r} the very images of the ID test set; "
                    f"correct data.ood.{name}"
                )

    def facts(self, scored: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Returns protocol, groups and facts about each set, for the report.

        Args:
            scored: Name of each set -> number of images with a score after a complete benchmark.
                In sets that are decoded when they are used, all other images were skipped.
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

    def identity(self, name: str) -> str:
        """Returns a digest of the images of a decoded set and of their labels, in their order."""
        images = self._decoded(name)
        label = (
            images.files.label[images.row] if isinstance(images, StoredImages) else images.label
        )
        parts = (self.sets[name]["sha256"].encode(), label.cpu().numpy().tobytes())
        sizes = [self.validation_size, *filter(None, [self.calibration_size])]
        return digest(*parts, "-".join(map(str, sizes)) if name == "train" else "")

    def pictures(self, name: str, index: Tensor) -> Tensor:
        """Returns the (n, C, H, W) uint8 images at these positions of a set, on the CPU."""
        return self._images(name)[index].image.cpu()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns the training part, shuffled; only its images are augmented.

        Raises:
            ValueError: If corrupt images are to be skipped, or images mixed, in a set that is
                decoded when used.
        """
        images = self._part("train")
        check_stored(images, is_mixed=self.mixing is not None)
        return self._loader(images, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Returns the held-out part of the training images, without those that calibrate."""
        return self._loader(self._part("validation"), self.eval_batch_size)

    def fit_dataloader(self) -> DataLoader[Batch]:
        """Returns the training part in evaluation order."""
        return self._loader(self._part("train"), self.eval_batch_size)

    def selection_dataloader(self) -> DataLoader[Batch]:
        """Returns all training images, on which the official code selects the block.

        Images that calibrate are left out.
        """
        images = self._images("train")
        if self.calibration_size:
            row = torch.arange(len(images))
            calibrates = self._rows("calibration")
            images = images.subset(torch.cat([row[: calibrates.start], row[calibrates.stop :]]))
        return self._loader(images, self.eval_batch_size)

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Returns one loader for each name given to `test_on`; by default those of `sources`."""
        images = [self._part(n) if n in PARTS else self._images(n) for n in self.tested]
        return [self._loader(each, self.eval_batch_size) for each in images]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Returns the batch with float32 images in [0, 1]; training images augmented and mixed."""
        if self.trainer and self.trainer.training:
            epoch = self.trainer.current_epoch
            augmented = self._augmented(batch, epoch)
            if self.mixing:
                images = self._part("train")
                other = images[self.mixing.partner(batch.index, epoch, len(images))]
                other = self._augmented(other, epoch)
                augmented = self.mixing(augmented, other, epoch, self.num_classes)
            batch = augmented
        return batch._replace(image=batch.image.float().div_(255))

    def _augmented(self, batch: Batch, epoch: int) -> Batch:
        if not self.augmentation:
            return batch
        return batch._replace(image=self.augmentation(batch.image, batch.index, epoch))

    def _decoded(self, name: str) -> ImageSet | StoredImages:
        """Returns a set, which is decoded at the first call."""
        if name not in self.loaded:
            images = self.loaded[name] = load_cached(self.named[name], self.cache_dir)
            self.sets[name] = {
                "images": len(images),
                "skipped": images.skipped,
                "view": str(self.named[name].view),
                "sha256": images.sha256,
            }
            if name == "train":
                self.loaded[name] = held_out_first(images, self.validation_size, self.split_seed)
        return self.loaded[name]

    def _images(self, name: str) -> ImageSet | StoredImages:
        """Returns a decoded set on the device of the trainer."""
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        self.loaded[name] = self._decoded(name).to(device)
        return self.loaded[name]

    def _part(self, part: str) -> ImageSet | StoredImages:
        return self._images("train").subset(self._rows(part))

    def _rows(self, part: str) -> slice:
        """Returns where a part lies in the training images; the held-out ones are first."""
        selecting = self.validation_size - self.calibration_size
        return {
            "validation": slice(0, selecting),
            "calibration": slice(selecting, self.validation_size),
            "train": slice(self.validation_size, None),
        }[part]

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
            device="cpu" if isinstance(images, StoredImages) else images.label.device,
        )
        if shuffle and self.trainer:  # in a resumed run, workers draw before the epoch is set
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.ready)
        stored = isinstance(images, StoredImages)  # others may be on the device
        return DataLoader(
            images,
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers if stored else 0,
            pin_memory=stored and torch.cuda.is_available(),
        )
