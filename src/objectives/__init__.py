"""What a classifier is trained for: the loss of a batch.

An objective shapes the training alone; detectors see the network as it is at test time.
"""

__all__ = ["CrossEntropy", "LogitNorm", "Objective", "RotPred"]

from src.objectives.base import Objective
from src.objectives.logits import CrossEntropy, LogitNorm
from src.objectives.rotation import RotPred
