"""The gate: a network, a detector and its calibration in one file that decides image by image.

Names are imported when they are first used, so that a command that only prints help stays fast.
"""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.gate.calibration import Calibration
    from src.gate.export import export_gate
    from src.gate.gate import Gate, Judgement, Verdict
    from src.gate.picture import Picture

__all__ = ["Calibration", "Gate", "Judgement", "Picture", "Verdict", "export_gate"]

MODULES = {
    "calibration": ("Calibration",),
    "export": ("export_gate",),
    "gate": ("Gate", "Judgement", "Verdict"),
    "picture": ("Picture",),
}

__getattr__ = exports(__name__, MODULES)
