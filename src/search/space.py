"""The search space, written in the grammar of Hydra's sweeps."""

__all__ = ["distribution", "split"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from src.records.literal import literal_word

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distribution(override: Any) -> "BaseDistribution":
    """Returns the Optuna distribution of a Hydra sweep.

    Raises:
        ValueError: If the sweep cannot be sampled.
    """
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        low, high, log = float(sweep.start or 0), float(sweep.end or 0), "log" in sweep.tags
        if "int" in sweep.tags:
            return IntDistribution(int(low), int(high), log=log)
        return FloatDistribution(low, high, log=log)
    if isinstance(sweep, ChoiceSweep | RangeSweep):
        return CategoricalDistribution([*override.sweep_string_iterator()])
    raise ValueError(
        f"expected interval(...), range(...), choice(...) or values with commas, got "
        f"{override.input_line}; see conf/search.yaml"
    )


def split(
    overrides: Sequence[str], space: Mapping[str, str]
) -> tuple[list[str], dict[str, "BaseDistribution"]]:
    """Returns the overrides that apply to every trial, and the search space.

    Args:
        overrides: Overrides of the command line.
        space: Sweeps to search if no override is a sweep: key -> sweep.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parse = OverridesParser.create().parse_override
    overrides = [literal_word(text, parse) for text in overrides]
    parsed = [parse(text) for text in overrides]
    swept = [override for override in parsed if override.is_sweep_override()]
    fixed = [text for text, o in zip(overrides, parsed, strict=True) if not o.is_sweep_override()]
    swept = swept or [parse(f"{key}={value}") for key, value in space.items()]
    return fixed, {
        str(override.input_line).partition("=")[0]: distribution(override) for override in swept
    }
