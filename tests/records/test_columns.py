"""Names of columns: one parser for `detector` and `detector@block`."""

import pytest

from src.records.columns import Column, block_columns, chosen_column, detector_columns

NAMES = ("msp", "featurenorm", "featurenorm@layer1.0", "knn@a@b", "featurenorm@layer2.0")


@pytest.mark.parametrize("name", NAMES)
def test_a_parsed_name_is_the_same_name(name: str) -> None:
    assert Column.parse(name).name == name


def test_columns_are_told_apart_by_their_block() -> None:
    assert detector_columns(NAMES) == ["msp", "featurenorm"]
    columns = {"layer1.0": "featurenorm@layer1.0", "layer2.0": "featurenorm@layer2.0"}
    assert block_columns(NAMES) == columns
    assert block_columns(NAMES, "knn") == {"a@b": "knn@a@b"}


def test_the_chosen_column_is_featurenorm_of_the_selected_block_else_the_first() -> None:
    assert chosen_column(NAMES, "layer2.0") == "featurenorm"
    assert chosen_column(("msp", "featurenorm@layer2.0"), "layer2.0") == "featurenorm@layer2.0"
    assert chosen_column(NAMES, None) == "msp"
    assert chosen_column((), "layer2.0") is None
