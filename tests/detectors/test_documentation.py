"""What the docstrings say of a detector is true, and the pages and configurations repeat it."""

import pytest
import torch

from docs.detectors import documents, exported, fitted_on, sections
from src.detectors import Detector
from tests.detectors.test_detectors import EXPORTED, build_default, edges, new_network

every_class = pytest.mark.parametrize("kind", EXPORTED)


def test_the_page_and_the_configurations_are_those_of_the_docstrings() -> None:
    for path, text in documents().items():
        assert path.read_text() == text, f"{path} is stale; run python -m docs.detectors"


def test_the_page_has_every_detector_once() -> None:
    assert sorted(map(str, exported())) == sorted(map(str, EXPORTED))


@every_class
def test_a_docstring_has_a_plain_summary_and_names_its_source(kind: type[Detector]) -> None:
    parts = sections(kind)
    assert parts[""].endswith(".")
    assert "\\(" not in parts[""]
    assert {"Source", "Fitted on", "Needs"} <= set(parts)
    assert "Experimental" in parts["Source"] or "https://" in parts["Source"]


@every_class
def test_a_docstring_says_on_what_a_detector_is_fitted(kind: type[Detector]) -> None:
    said, detector = fitted_on(kind), build_default(kind)()
    if said == "the images of the wrapped detector":
        assert detector.is_fitted_on_data == detector.detector.is_fitted_on_data
        return
    assert (said != "nothing") == detector.is_fitted_on_data
    if detector.is_fitted_on_data:
        part = {"train": "training"}.get(detector.fit_on, detector.fit_on)
        assert f" ID {part} images" in said
        assert ("with labels" in said) == needs_labels(detector)


def needs_labels(detector: Detector) -> bool:
    """Whether it refuses images without a label."""
    seen, index = new_network().observe(edges(8, seed=1)[0]), torch.arange(8)
    try:
        detector.update(seen, torch.full_like(index, -1), index)
    except ValueError as error:
        return "got label -1" in str(error)
    return False


@pytest.mark.parametrize("text", ["Some images.", "All ID test images.", "All training images."])
def test_a_section_of_another_form_is_refused(text: str) -> None:
    kind = type("Mine", (Detector,), {"__doc__": f"Mine.\n\nFitted on:\n    {text}\n"})
    with pytest.raises(ValueError, match=r"expected Mine to be fitted on 'Nothing.'.*; rewrite"):
        fitted_on(kind)
