"""The rule of the paper: one place for the choice of a block and for its margin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.records.selection import margin, select

RATIOS = st.lists(st.sampled_from([0.5, 1.0, 1.25, 2.0]), min_size=1, max_size=6)


@given(RATIOS)
def test_the_largest_is_selected_and_of_equal_ones_the_deepest(ratio: list[float]) -> None:
    selected = int(select(ratio))
    assert ratio[selected] == max(ratio)
    assert max(ratio) not in ratio[selected + 1 :]


@given(RATIOS)
def test_the_margin_is_the_lead_over_the_best_of_the_others(ratio: list[float]) -> None:
    for position in range(len(ratio)):
        others = ratio[:position] + ratio[position + 1 :]
        lead = ratio[position] - max(others) if others else 0
        assert margin(ratio, position) == lead
    assert margin(ratio) == margin(ratio, int(select(ratio))) >= 0


def test_both_work_on_rows() -> None:
    rows = np.array([[1.0, 2.0, 1.5], [3.0, 1.0, 3.0]])
    assert select(rows).tolist() == [1, 2]
    assert margin(rows).tolist() == pytest.approx([0.5, 0.0])
    assert margin(rows, 1).tolist() == pytest.approx([0.5, -2.0])
