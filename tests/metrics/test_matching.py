"""A network that knows the classes in another order is told from one that knows nothing."""

import pytest
import torch

from src.metrics.matching import matching


def labels(classes: int, each: int) -> torch.Tensor:
    return torch.arange(classes).repeat(each)


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_numbers_that_another_tool_sorted_otherwise_are_found(wrong: float) -> None:
    label = labels(12, 50)
    as_text = torch.tensor([int(name) for name in sorted(map(str, range(12)))])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(12, label.shape, generator=generator)
    hit = torch.rand(label.shape, generator=generator) >= wrong
    found = matching(label, as_text[label].where(hit, noise))
    assert found is not None
    assert found.is_suspicious
    assert found.matched == pytest.approx(1 - wrong * 11 / 12, abs=0.05)
    assert found.accuracy < 0.3
    assert found.called == as_text[found.label] != found.label


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("kind", ["right", "chance", "always the same", "half right"])
def test_a_good_or_ignorant_network_is_not_suspicious(kind: str, classes: int) -> None:
    label = labels(classes, 20)
    noise = torch.randint(classes, label.shape, generator=torch.Generator().manual_seed(0))
    prediction = {
        "right": label,
        "chance": noise,
        "always the same": torch.full_like(label, classes - 1),
        "half right": torch.where(torch.arange(len(label)) % 2 == 0, label, noise),
    }[kind]
    found = matching(label, prediction)
    assert found is not None
    assert not found.is_suspicious


def test_few_images_no_labels_and_too_many_classes_give_no_judgement() -> None:
    label = torch.tensor([0, 1, 2])
    assert matching(label, label.flip(0)) is None
    assert matching(torch.full((50,), -1), torch.zeros(50, dtype=torch.int64)) is None
    assert matching(torch.zeros(50, dtype=torch.int64), torch.full((50,), 10**6)) is None


def test_images_without_a_label_do_not_count() -> None:
    label = torch.cat([labels(2, 20), torch.full((100,), -1)])
    found = matching(label, label.clamp(min=0))
    assert found is not None
    assert found.accuracy == 1
