"""The watch: p-values and capital by direct formulas, the promise, resuming, hard scores."""

import csv
import json
from collections.abc import Callable
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from src.counter_random import random_bits
from src.metrics.martingale import EPSILONS, SHARES, bound_of_mean, cells
from src.metrics.watch import MARTINGALES, REFERENCES, Watch, Watched, rows

every_reference = pytest.mark.parametrize("reference", REFERENCES)


def scores(count: int, *, seed: int, shift: float = 0.0) -> Tensor:
    """Normal scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(count, generator=generator, dtype=torch.float64) + shift
    return (score * 20).round() / 20


def watched_in(watch: Watch, parts: tuple[Tensor, ...]) -> Watched:
    return Watched(*map(torch.cat, zip(*(watch.update(part) for part in parts), strict=True)))


def assert_same(watched: Watched, other: Watched) -> None:
    for name, one, two in zip(Watched._fields, watched, other, strict=True):
        assert one.equal(two), name


def directly(bets: np.ndarray) -> np.ndarray:
    """Capital of the three martingales after each image, from the (K, T) bets by definition."""
    count = bets.shape[1]
    capital = np.zeros((3, count))
    for t in range(1, count + 1):
        own = bets[:, :t].prod(axis=1)
        started = sum(bets[:, s - 1 : t].prod(axis=1) / (s * (s + 1)) for s in range(1, t + 1))
        capital[:, t - 1] = bets[2 * len(SHARES), :t].prod(), own.mean(), np.mean(started)
        capital[2, t - 1] += 1 / (t + 1)
    return capital


def with_shares(value: np.ndarray) -> np.ndarray:
    return np.stack([1 - share + share * each for each in value for share in SHARES])


def capital_of(watched: Watched) -> np.ndarray:
    return 10 ** np.stack([getattr(watched, name).numpy() for name in MARTINGALES])


def test_a_growing_reference_ranks_among_all_earlier_scores_and_bets_as_defined() -> None:
    known, stream = scores(9, seed=0), scores(40, seed=1, shift=-1)
    watched = Watch(known, seed=7).update(stream)
    u = ((random_bits(torch.arange(40), 1, seed=7)[:, 0] >> 10) + 1).double() / 2**53
    past, p = known.tolist(), []
    for score, each in zip(stream.tolist(), u.tolist(), strict=True):
        below, equal = sum(s < score for s in past), past.count(score)
        p.append((below + (equal + 1) * each) / (len(past) + 1))
        past.append(score)
    assert watched.p_value.tolist() == p
    order = with_shares(np.stack([e * np.array(p) ** (e - 1) for e in EPSILONS]))
    assert EPSILONS[2] == 0.5
    assert SHARES[0] == 1
    np.testing.assert_allclose(capital_of(watched), directly(order), rtol=1e-10)


def test_a_fixed_reference_has_the_p_values_of_a_gate_and_pays_for_each_bet() -> None:
    known, stream = scores(300, seed=0), scores(40, seed=1, shift=-1)
    watched = Watch(known, reference="fixed", delta=0.1).update(stream)
    count = (known <= stream[:, None]).sum(dim=1)
    assert watched.p_value.equal((1 + count).double() / 301)
    value = []
    for e in EPSILONS:
        cell = np.array([((r + 1) ** e - r**e) / 301**e * 301 for r in range(301)])
        u = np.exp(np.linspace(-20, 0, 20_001))[:-1] / cell.max()
        mean = np.array([(np.log1p(-each * cell).sum() + np.log(0.01)) / 301 for each in u])
        price = (-np.expm1(mean) / u).min()
        assert price > 1
        value.append(cell[count] / price)
    capital = directly(with_shares(np.stack(value))) / 2
    np.testing.assert_allclose(capital_of(watched), capital, rtol=1e-4)


def test_the_price_of_a_bet_bounds_its_mean_for_all_but_few_calibration_sets() -> None:
    """A bet's mean given n sorted uniform scores, over many draws of these."""
    for n, delta in ((50, 0.05), (400, 0.2)):
        gap = torch.distributions.Dirichlet(torch.ones(n + 1, dtype=torch.float64))
        torch.manual_seed(0)
        probability = gap.sample((20_000,)).numpy()
        for value in cells(n):
            assert value.mean() == pytest.approx(1)
            exceeds = (probability @ value > bound_of_mean(value, delta)).mean()
            assert 0 < exceeds <= delta


@pytest.mark.parametrize("martingale", MARTINGALES)
@every_reference
def test_id_streams_rarely_raise_the_alarm(reference: str, martingale: str) -> None:
    delta, alarms = 0.2, 0
    for seed in range(200):
        drawn = torch.rand(100 + 600, generator=torch.Generator().manual_seed(seed)).double()
        watch = Watch(
            drawn[:100], delta=delta, reference=reference, martingale=martingale, seed=seed
        )
        watch.update(drawn[100:])
        alarms += watch.alarm is not None
    assert alarms <= 52  # more has a probability of 2 % at a rate of exactly 0.2


@every_reference
def test_ood_images_raise_the_alarm_at_the_start_and_in_the_middle(reference: str) -> None:
    known, shifted = scores(1000, seed=0), scores(200, seed=2, shift=-2)
    watch = Watch(known, reference=reference)
    watched = watch.update(shifted)
    assert watch.alarm is not None
    assert watch.alarm < 50
    assert watched.position[watched.alarm][0] == watch.alarm
    assert watched.restart[watch.alarm - 1] >= 2 > watched.restart[: watch.alarm - 1].max()
    late = Watch(known, reference=reference)
    late.update(scores(2000, seed=1))
    assert late.alarm is None
    watched = late.update(shifted)
    assert late.alarm is not None
    assert late.alarm < 2100
    assert watched.power.max() < -50  # the capital that started first is lost


@every_reference
def test_how_a_stream_is_cut_into_batches_is_irrelevant(reference: str) -> None:
    known = scores(500, seed=0)
    stream = torch.cat([scores(1200, seed=1), scores(100, seed=2, shift=-2)])
    whole = Watch(known, reference=reference)
    expected = whole.update(stream)
    for size in (1, 7, 512, 1000):
        watch = Watch(known, reference=reference)
        assert_same(watched_in(watch, stream.split(size)), expected)
        assert watch.state() == whole.state()
    shuffled = Watch(known.flip(0), reference=reference)
    assert_same(shuffled.update(stream), expected)


@every_reference
def test_a_watch_goes_on_from_its_state_bit_by_bit(reference: str) -> None:
    known, stream = scores(200, seed=0), scores(90, seed=1, shift=-1)
    options = {"delta": 0.05, "martingale": "mixture", "reference": reference, "seed": 3}
    whole = Watch(known, **options)
    expected = whole.update(stream)
    watch = Watch(known, **options)
    parts = []
    for begin, end in pairwise([0, 0, 1, 40, 40, 90]):
        text = json.dumps(watch.state(), allow_nan=False)
        watch = Watch.restored(json.loads(text))
        parts.append(watch.update(stream[begin:end]))
    assert_same(Watched(*map(torch.cat, zip(*parts, strict=True))), expected)
    assert watch.state() == whole.state()
    assert watch.alarm == whole.alarm is not None


def test_the_seed_breaks_ties_and_nothing_else_does() -> None:
    known, stream = torch.zeros(10), torch.zeros(30)
    torch.manual_seed(0)
    first = Watch(known, seed=1).update(stream)
    torch.manual_seed(1)
    assert_same(Watch(known, seed=1).update(stream), first)
    other = Watch(known, seed=2).update(stream)
    assert not other.p_value.equal(first.p_value)
    assert 0.3 < first.p_value.mean() < 0.7


@every_reference
def test_nan_is_as_ood_as_minus_infinity_and_nothing_becomes_infinite(reference: str) -> None:
    nan, inf = torch.nan, torch.inf
    known = scores(99, seed=0)
    hard = torch.tensor([nan, -inf, inf, nan, inf, -0.0, 0.0], dtype=torch.float64)
    watched = Watch(known, reference=reference).update(hard)
    same = torch.tensor([-inf, -inf, inf, -inf, inf, 0.0, 0.0], dtype=torch.float64)
    assert_same(Watch(known, reference=reference).update(same), watched)
    assert (watched.p_value[:2] <= 2 / 100).all()
    assert watched.p_value[2] > 0.98
    assert all(column.isfinite().all() for column in watched)
    watch = Watch(known, reference=reference)
    watch.update(torch.full((5000,), nan))
    assert watch.alarm is not None
    assert json.loads(json.dumps(watch.state(), allow_nan=False)) == watch.state()


@every_reference
def test_an_empty_batch_changes_nothing(reference: str) -> None:
    watch = Watch(scores(50, seed=0), reference=reference)
    before = watch.state()
    watched = watch.update(torch.empty(0))
    assert all(len(column) == 0 for column in watched)
    assert watch.state() == before
    assert rows(watched) == []
    watch.update(scores(600, seed=1, shift=-2))
    alarm, before = watch.alarm, watch.state()
    watch.update(torch.empty(0))
    assert watch.alarm == alarm
    assert watch.state() == before


@every_reference
def test_float32_scores_count_as_they_are(reference: str) -> None:
    known, stream = scores(50, seed=0).float(), scores(30, seed=1).float()
    expected = Watch(known.double(), reference=reference).update(stream.double())
    assert_same(Watch(known, reference=reference).update(stream), expected)


def test_each_image_is_a_row_of_a_csv_file() -> None:
    watch = Watch(scores(500, seed=0))
    watched = watch.update(scores(30, seed=1, shift=-3))
    file = StringIO()
    table = csv.DictWriter(file, rows(watched)[0])
    table.writeheader()
    table.writerows(rows(watched))
    file.seek(0)
    read = list(csv.DictReader(file))
    assert [int(row["position"]) for row in read] == [*range(1, 31)]
    assert [float(row["p_value"]) for row in read] == watched.p_value.tolist()
    for name in MARTINGALES:
        column = [float(row[f"log10_{name}"]) for row in read]
        assert column == getattr(watched, name).tolist()
    assert [row["alarm"] for row in read].index("True") + 1 == watch.alarm


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_delta_is_a_probability(delta: float) -> None:
    with pytest.raises(ValueError, match=r"expected delta.* within \(0, 1\)"):
        Watch(torch.zeros(3), delta=delta)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (torch.empty(0), r"shape \(0,\)"),
        (torch.zeros(2, 2), r"shape \(2, 2\)"),
        (torch.tensor([0.0, torch.nan]), "NaN or infinity"),
        (torch.tensor([0.0, torch.inf]), "NaN or infinity"),
    ],
)
def test_calibration_scores_are_finite_and_in_a_row(known: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Watch(known)


def test_unknown_choices_and_shapes_are_refused_and_nothing_is_lost() -> None:
    with pytest.raises(ValueError, match="martingale to be one of power, mixture, restart"):
        Watch(torch.zeros(3), martingale="jumper")
    with pytest.raises(ValueError, match="reference to be one of growing, fixed, got 'plain'"):
        Watch(torch.zeros(3), reference="plain")
    watch = Watch(torch.zeros(3))
    before = watch.state()
    with pytest.raises(ValueError, match=r"expected scores \(B,\), got \(2, 3\)"):
        watch.update(torch.zeros(2, 3))
    assert watch.state() == before


CHANGES: dict[str, Callable[[dict], object]] = {
    "no wealth": lambda state: state.pop("wealth"),
    "too few bets": lambda state: state["wealth"].pop(),
    "NaN": lambda state: state["entry"].__setitem__(0, float("nan")),
    "words": lambda state: state["known"].__setitem__(0, "0"),
    "other format": lambda state: state.update(format=2),
    "negative position": lambda state: state.update(position=-1),
    "no position": lambda state: state.update(position="3"),
    "more images than scores": lambda state: state.update(position=60),
    "alarm in the future": lambda state: state.update(alarm=31),
    "delta": lambda state: state.update(delta=2.0),
    "delta in words": lambda state: state.update(delta="0.01"),
    "seed": lambda state: state.update(seed=0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_damaged_state_is_refused(change: Callable[[dict], object]) -> None:
    watch = Watch(scores(30, seed=0))
    watch.update(scores(30, seed=1))
    state = json.loads(json.dumps(watch.state()))
    Watch.restored(state)
    change(state)
    with pytest.raises(ValueError, match="expected the state of a watch"):
        Watch.restored(state)
