"""What a training may also do: average its weights, or log what a profile of norms learns.

A run has these only if it is asked for them; the selection of a block is `src.block_selection`.
"""

__all__ = ["EMA", "ProfileCurves"]

from src.callbacks.profile_curves import ProfileCurves
from src.callbacks.weight_averaging import EMA
