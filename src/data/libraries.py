"""Image sets that torchvision and Hugging Face's `datasets` read."""

__all__ = ["HuggingFace", "Torchvision"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import ConcatDataset

from src.data.datasets import ImageSet
from src.data.decoding import OnCorrupt, View, decode
from src.data.download import prepare
from src.data.files import chosen, decoded, digest
from src.data.registry import known


class _Collection(ABC):
    """Pictures with labels that a library gives by position.

    Args:
        size: images become size x size RGB, as of `ImageFiles`.
        short_side: as of `ImageFiles`.
        count: as of `ImageFiles`.
        sample: as of `ImageFiles`.
        seed: as of `ImageFiles`.
        on_corrupt: as of `ImageFiles`.
        options: of the library.
    """

    classes: tuple[str, ...]

    def __init__(
        self,
        size: int,
        *,
        short_side: int | None = None,
        count: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        on_corrupt: OnCorrupt = "refuse",
        **options: Any,
    ) -> None:
        self.view, self.on_corrupt, self.options = View(size, short_side), on_corrupt, options
        self.count, self.sample, self.seed = count, sample, seed

    @abstractmethod
    def items(self) -> Sequence[tuple[Image.Image, int]]:
        """Returns the opened collection."""

    def load(self) -> ImageSet:
        """Returns the decoded set in the library's order.

        Raises:
            ValueError: as of `ImageFiles`.
        """
        label: dict[int, int] = {}
        names, read = self.pictures(label)
        image, kept = decode(read, names, self.view, self.on_corrupt)
        labels = torch.tensor([label.get(number, -1) for number in range(len(names))])
        return decoded(image, labels, self.classes, kept, str(self))

    def pictures(
        self, label: dict[int, int] | None = None
    ) -> tuple[list[str], Callable[[int], Image.Image]]:
        """Returns the names of all images, and what opens one of them by position.

        Args:
            label: takes the labels of those that were opened, if the set has classes.

        Raises:
            ValueError: as of `ImageFiles`.
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
        """Returns all settings on which the decoded set depends."""
        return repr((self.view, self.on_corrupt, self.classes, self.count, self.sample, self.seed))


class Torchvision(_Collection):
    """A data set of torchvision, by the name of its class.

    Args:
        dataset: class of `torchvision.datasets`, such as `"CIFAR10"`.
        root: folder of the downloaded files.
        size: images are resized (bilinear, aspect ratio not kept) to `size` x `size` RGB.
        num_classes: number of labels; 0 for a set without labels, whose own are then dropped.
        download: whether `prepare` downloads what is missing.
        known: name in the registry, whose addresses are tried before torchvision's own.
        split: one split, or several that are concatenated.
        options: short_side, count, sample, seed, on_corrupt, as of `ImageFiles`; all others are
            arguments of the class, such as `train=True`.

    Raises:
        FileNotFoundError: if the files are not there, and not downloaded either.
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
        """Returns the splits, one behind the other.

        Raises:
            FileNotFoundError: if the files are not there.
        """
        # torchvision is imported here: everything else works without it.
        from torchvision import datasets

        dataset = getattr(datasets, self.dataset, None)
        if dataset is None:
            raise ValueError(
                f"expected a class of torchvision.datasets, got {self.dataset!r}; set dataset"
            )
        try:
            return ConcatDataset([dataset(self.root, **part, **download) for part in self.parts])
        except (RuntimeError, OSError) as error:  # not there, and not to be had
            raise FileNotFoundError(
                f"expected {self.dataset} in {self.root}, got: {error}; "
                "set download=true with a network, or data_dir to the folder that holds it"
            ) from error

    def prepare(self) -> None:
        """Downloads what is missing, if asked to."""
        if not self.download:
            return
        try:
            self.items()
        except FileNotFoundError:
            if self.known is not None and not self.root.exists():
                prepare(known(self.known), self.root)
            self.items(download=True)  # unpacks, and fetches what is not registered

    @property
    def key(self) -> tuple[str, str]:
        """Digests of what is asked for and of the files it comes from, as of `ImageFiles`."""
        how = (self.dataset, str(self.root.absolute()), self.parts, self.how())
        files = sorted(file for file in self.root.rglob("*") if file.is_file())
        state = [(str(file), *_state(file)) for file in files]
        return digest(repr(how)), digest(repr((version("torchvision"), version("pillow"), state)))


class HuggingFace(_Collection):
    """A set of the Hugging Face hub, or a local one in its formats (`pip install -e .[hf]`).

    Args:
        path: name on the hub, or a local folder.
        split: such as "test".
        size: as of `ImageFiles`.
        image: column of the images.
        label: column of the labels, numbers or class labels; None for a set without labels.
        options: short_side, count, sample, seed, on_corrupt, as of `ImageFiles`; all others are
            arguments of `datasets.load_dataset`.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if a column is missing.
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
        return tuple(names or map(str, range(max(self.table[label]) + 1)))

    def __str__(self) -> str:
        return self.path

    def items(self) -> "_Rows":
        """Returns the rows."""
        return _Rows(self.table, self.image, self.label)

    def prepare(self) -> None:
        """Does nothing: the table was opened, and downloaded if need be, when constructed."""

    @property
    def key(self) -> tuple[str, str]:
        """Digests of what is asked for and of the table's content, as of `ImageFiles`."""
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


def _state(file: Path) -> tuple[int, int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns
