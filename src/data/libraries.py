"""Image sets of torchvision and of Hugging Face's `datasets`."""

__all__ = ["HuggingFace", "Torchvision"]

from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import ConcatDataset

from src.data.datasets import ImageSet, PictureSource
from src.data.decoding import OnCorrupt, View, decode
from src.data.download import prepare
from src.data.files import chosen, decoded, digest, state_of
from src.data.names import class_numbers
from src.data.opening import MAX_PIXELS
from src.data.registry import known


class _Collection(PictureSource):
    """Pictures with labels that a library returns by position.

    Args:
        size: Side of the images, in pixels; for this and the next arguments see `ImageFiles`.
        short_side: Length of the short side before the centre is cropped.
        count: Number of images that a protocol requires.
        sample: Number of images to draw at random.
        seed: Seed of the sample.
        on_corrupt: "refuse" or "skip".
        max_pixels: Largest number of pixels of an image.
        options: Arguments of the library.
    """

    def __init__(
        self,
        size: int,
        *,
        short_side: int | None = None,
        count: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        on_corrupt: OnCorrupt = "refuse",
        max_pixels: int = MAX_PIXELS,
        **options: Any,
    ) -> None:
        self.view = View(size, short_side, max_pixels=max_pixels)
        self.on_corrupt, self.options = on_corrupt, options
        self.count, self.sample, self.seed = count, sample, seed

    @abstractmethod
    def items(self) -> Sequence[tuple[Image.Image, int]]:
        """Returns the images and their labels, opened by the library."""

    def load(self) -> ImageSet:
        """Returns the decoded set in the order of the library.

        Raises:
            ValueError: If `ImageFiles` would raise it.
        """
        label: dict[int, int] = {}
        names, read = self.pictures(label)
        image, kept = decode(read, names, self.view, self.on_corrupt)
        labels = torch.tensor([label.get(number, -1) for number in range(len(names))])
        return decoded(image, labels, self.classes, kept, str(self))

    def pictures(
        self, label: dict[int, int] | None = None
    ) -> tuple[list[str], Callable[[int], Image.Image]]:
        """Returns the names of all images, and a function that opens one by its position.

        Args:
            label: Receives the label of each image that is opened, if the set has classes.

        Raises:
            ValueError: If `ImageFiles` would raise it.
        """
        items = self.items()
        row = chosen(len(items), self.count, self.sample, self.seed, str(self))

        def read(number: int) -> Image.Image:
            picture, own = items[row[number]]
            if label is not None and self.classes:
                label[number] = own
            return picture

        return [f"{self}[{number}]" for number in row], read

    def how(self) -> str:
        """Returns the settings that determine the decoded set."""
        return repr((self.view, self.on_corrupt, self.classes, self.count, self.sample, self.seed))


class Torchvision(_Collection):
    """A data set of torchvision, by the name of its class.

    Args:
        dataset: Class of `torchvision.datasets`, such as `"CIFAR10"`.
        root: Folder of the downloaded files.
        size: Side of the images, in pixels; see `ImageFiles`.
        num_classes: Number of classes; 0 drops the labels.
        download: Whether `prepare` downloads missing files.
        known: Name in the registry, whose addresses are tried before those of torchvision.
        split: One split, or several to concatenate.
        options: Arguments of `ImageFiles` (short_side, count, sample, seed, on_corrupt,
            max_pixels); all
            others are arguments of the class, such as `train=True`.

    Raises:
        FileNotFoundError: If the files are missing and `download` is false.
    """

    def __init__(
        self,
        dataset: str,
        root: str | Path,
        size: int,
        *,
        num_classes: int = 0,
        download: bool = True,
        known: str | None = None,
        split: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(size, **options)
        self.dataset, self.root = dataset, Path(root)
        self.download, self.known = download, known
        self.classes = tuple(str(label) for label in range(num_classes))
        splits = [split] if isinstance(split, str) else split
        own = self.options
        self.parts = [own] if splits is None else [{**own, "split": each} for each in splits]
        if not download:
            self.items()

    def __str__(self) -> str:
        return self.dataset

    def items(self, **download: bool) -> ConcatDataset[Any]:  # type: ignore[override]
        """Returns the concatenated splits.

        Raises:
            FileNotFoundError: If the files are missing.
        """
        from torchvision import datasets

        dataset = getattr(datasets, self.dataset, None)
        if dataset is None:
            raise ValueError(
                f"expected a class of torchvision.datasets, got {self.dataset!r}; set dataset"
            )
        try:
            return ConcatDataset([dataset(self.root, **part, **download) for part in self.parts])
        except (RuntimeError, OSError) as error:  # missing, or the download failed
            raise FileNotFoundError(
                f"expected {self.dataset} in {self.root}, got: {error}; "
                "set download=true with a network connection, or set data_dir to its folder"
            ) from error

    def prepare(self) -> None:
        """Downloads missing files, unless `download` is false."""
        if not self.download:
            return
        try:
            self.items()
        except FileNotFoundError:
            if self.known is not None and not self.root.exists():
                prepare(known(self.known), self.root)
            self.items(download=True)  # unpacks the files, and fetches unregistered ones

    @property
    def key(self) -> tuple[str, str]:
        """Digests of the settings and of the files; see `ImageFiles`."""
        how = (self.dataset, str(self.root.absolute()), self.parts, self.how())
        files = sorted(file for file in self.root.rglob("*") if file.is_file())
        state = [(str(file), *state_of(file)) for file in files]
        return digest(repr(how)), digest(repr((version("torchvision"), version("pillow"), state)))


class HuggingFace(_Collection):
    """A set of the Hugging Face hub, or a local one in its formats (`pip install -e .[hf]`).

    Args:
        path: Name on the hub, or a local folder.
        split: Split, such as "test".
        size: Side of the images, in pixels; see `ImageFiles`.
        image: Column of the images.
        label: Column of the labels, which are numbers or class labels; None drops the labels.
        options: Arguments of `ImageFiles` (short_side, count, sample, seed, on_corrupt,
            max_pixels); all
            others are arguments of `datasets.load_dataset`.

    Raises:
        ModuleNotFoundError: If `datasets` is not installed.
        ValueError: If a column is missing.
    """

    def __init__(
        self,
        path: str,
        split: str,
        size: int,
        *,
        image: str = "image",
        label: str | None = "label",
        **options: Any,
    ) -> None:
        super().__init__(size, **options)
        try:
            from datasets import load_dataset
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"expected the package datasets, which reads {path}, got: {error}; "
                "pip install -e .[hf]"
            ) from error

        self.path, self.image, self.label = path, image, label
        self.table = load_dataset(path, split=split, **self.options)
        if absent := {image, label} - {None, *self.table.column_names}:
            raise ValueError(
                f"expected a column {sorted(map(str, absent))[0]!r} in {path}, got "
                f"{', '.join(self.table.column_names)}; set image and label"
            )
        self.classes = () if label is None else self._names(label)

    def _names(self, label: str) -> tuple[str, ...]:
        names = getattr(self.table.features[label], "names", None)
        return tuple(names or class_numbers(max(self.table[label]), None, self.path))

    def __str__(self) -> str:
        return self.path

    def items(self) -> "_Rows":
        """Returns the rows."""
        return _Rows(self.table, self.image, self.label)

    @property
    def key(self) -> tuple[str, str]:
        """Digests of the settings and of the table's content; see `ImageFiles`."""
        how = (self.path, str(self.table.split), self.image, self.label, self.how())
        return digest(repr(how)), digest(self.table._fingerprint, version("pillow"))


class _Rows(Sequence[tuple[Image.Image, int]]):
    def __init__(self, table: Any, image: str, label: str | None) -> None:
        self.table, self.image, self.label = table, image, label

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: Any) -> Any:
        item = self.table[int(row)]
        return item[self.image], -1 if self.label is None else item[self.label]
