"""Which columns of a score table are the method's own."""

__all__ = ["PER_BLOCK", "chosen_detector"]

from collections.abc import Sequence

PER_BLOCK = "featurenorm@"  # in front of a block's name: FeatureNorm at that block


def chosen_detector(detectors: Sequence[str], selected_block: str | None) -> str | None:
    """Returns FeatureNorm of the selected block, else the first detector, if there is any."""
    wanted = (PER_BLOCK.rstrip("@"), f"{PER_BLOCK}{selected_block}") if selected_block else ()
    return next((name for name in (*wanted, *detectors) if name in detectors), None)
