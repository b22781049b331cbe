"""pytorch-ood 0.4 as in its tutorials: one detector after the other, each with its encoder."""

from functools import partial

from bench.runners import pytorch_ood
from bench.runners.pytorch_ood import metrics

__all__ = ["metrics", "run"]

run = partial(pytorch_ood.run, as_list=False)
