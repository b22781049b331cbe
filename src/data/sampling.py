"""Which images form which batch, on any number of processes."""

__all__ = ["BatchSampler"]

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler


class BatchSampler(DistributedSampler[Tensor]):
    """Yields the index of whole batches; all batches are full and all processes get equally many.

    Used as `DataLoader(dataset, sampler=BatchSampler(...), batch_size=None)`, so that the data
    set is indexed once per batch. Lightning leaves a DistributedSampler alone and tells it the
    epoch.

    Training (`shuffle`): a new permutation each epoch, dealt image by image; the images that do
    not fill a batch on every process are left out of this epoch. Evaluation: global batch j, which
    is the same on any number of processes, goes to process j % num_replicas; the end is padded
    with -1, so every image is seen exactly once.

    Args:
        n: number of images.
        batch_size: images per batch and process, B.
        num_replicas: number of processes.
        rank: number of this process.
        shuffle: training order instead of evaluation order.
        seed: of the permutations; the same on every process.

    Raises:
        ValueError: if there is not one batch for every process.
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
    ) -> None:
        super().__init__(range(n), num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]
        self.n, self.batch_size = n, batch_size
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
        # the epoch is read at the first batch: when a training is resumed, Lightning opens the
        # iterator before it tells the epoch
        rows = self.batches * self.num_replicas * self.batch_size
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.n, generator=generator)[:rows]
            order = order.view(self.batches, self.batch_size, self.num_replicas).movedim(2, 1)
        else:
            order = torch.full((rows,), -1)
            order[: self.n] = torch.arange(self.n)
            order = order.view(self.batches, self.num_replicas, self.batch_size)
        yield from order[:, self.rank]
