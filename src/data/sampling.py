"""Distribution of the images over parts, batches and processes."""

__all__ = ["BatchSampler", "held_out_first"]

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from src.data.datasets import ImageSet, StoredImages


class BatchSampler(DistributedSampler[Tensor]):
    """Yields the indices of full batches; all processes get the same number of them.

    Use it as `DataLoader(dataset, sampler=BatchSampler(...), batch_size=None)`, so that the data
    set is indexed once per batch. Lightning does not replace a DistributedSampler, and passes the
    epoch to it.

    Training (`shuffle`): each epoch has a new permutation, which is dealt to the processes image
    by image. Images that do not fill a batch on every process are left out of that epoch.

    Evaluation: global batch j is the same for any number of processes and goes to process
    j % num_replicas. The end is padded with -1, so that every image is seen exactly once. A batch
    is at most as large as the set.

    Args:
        n: Number of images.
        batch_size: Number of images per batch and process, B.
        num_replicas: Number of processes.
        rank: Rank of this process.
        shuffle: Whether to use the training order, not the evaluation order.
        seed: Seed of the permutations, the same on every process.
        device: Where the indices are wanted. An epoch's are sent at once, at its first batch.

    Raises:
        ValueError: If the images do not fill one batch on every process.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(range(n), num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]
        batch_size = batch_size if shuffle else max(1, min(batch_size, n))
        self.n, self.batch_size, self.device = n, batch_size, device
        step = batch_size * num_replicas
        self.batches = n // step if shuffle else -(-n // step)
        if self.batches == 0:
            raise ValueError(
                f"expected an image set that fills one batch on every process, got {n} images for "
                f"{num_replicas} processes x batch size {batch_size}; lower the batch size"
            )

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        # this code runs at the first batch: in a resumed run, Lightning creates the iterator
        # before it sets the epoch
        rows = self.batches * self.num_replicas * self.batch_size
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.n, generator=generator)[:rows]
            order = order.view(self.batches, self.batch_size, self.num_replicas).movedim(2, 1)
        else:
            order = torch.full((rows,), -1)
            order[: self.n] = torch.arange(self.n)
            order = order.view(self.batches, self.num_replicas, self.batch_size)
        yield from order[:, self.rank].to(self.device)


def held_out_first(
    images: ImageSet | StoredImages, validation_size: int, seed: int
) -> ImageSet | StoredImages:
    """Returns the permuted set, whose first `validation_size` images are held out.

    Raises:
        ValueError: If no training or no validation image is left.
    """
    if not 1 <= validation_size < len(images):
        raise ValueError(
            f"expected data.validation_size within 1..{len(images) - 1}, as there are "
            f"{len(images)} training images, got {validation_size}; set it"
        )
    generator = torch.Generator().manual_seed(seed)
    return images.subset(torch.randperm(len(images), generator=generator))
