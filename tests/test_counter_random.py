"""Laws of the counter-based random numbers."""

import pytest
import torch

from src.counter_random import random_bits

GAMMA, WORD = 0x9E3779B97F4A7C15, 2**64


def mix(z: int) -> int:
    """SplitMix64's finaliser, in unbounded integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def draw_of(seed: int, index: int, draw: int) -> int:
    key = mix((seed + GAMMA) % WORD)
    stream = mix((key + (index + 1) * GAMMA) % WORD)
    return mix((stream + (draw + 1) * GAMMA) % WORD) % 2**63


def test_the_oracle_is_splitmix64() -> None:
    """The first outputs of the generator seeded with 1234567, as published everywhere."""
    outputs = [mix((1234567 + n * GAMMA) % WORD) for n in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    "seed", [0, 1, -1, 42, 2**32, 2**63 - 1, -(2**63), 2**63, 10**30, -(10**30)]
)
def test_draws_equal_a_loop_over_integers_for_a_seed_of_any_size(seed: int) -> None:
    index = torch.tensor([0, 1, 7, 49_999, 2**40, -1])
    expected = [[draw_of(seed, int(i), draw) for draw in range(5)] for i in index]
    assert random_bits(index, 5, seed=seed).tolist() == expected


def test_more_draws_begin_with_the_same_draws() -> None:
    index = torch.arange(10)
    assert random_bits(index, 9, seed=3)[:, :4].equal(random_bits(index, 4, seed=3))


def test_a_sample_draws_the_same_in_any_batch_and_order() -> None:
    index = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    whole = random_bits(torch.arange(100), 3, seed=5)
    assert random_bits(index, 3, seed=5).equal(whole[index])
    assert torch.cat([random_bits(part, 3, seed=5) for part in index.split(7)]).equal(whole[index])


def test_draws_are_uniform_and_all_different() -> None:
    bits = random_bits(torch.arange(20_000), 5, seed=0)
    assert bits.min() >= 0
    assert bits.unique().numel() == bits.numel()
    count = torch.bincount((bits >> 57).flatten(), minlength=64).double()
    expected = bits.numel() / 64
    assert ((count - expected) ** 2 / expected).sum() < 63 + 6 * (2 * 63) ** 0.5
    assert (bits[:, :, None] >> torch.arange(63) & 1).double().mean((0, 1)).sub(
        0.5
    ).abs().max() < 0.01


def test_neighbouring_samples_draws_and_seeds_are_uncorrelated() -> None:
    def unit(index: torch.Tensor, seed: int) -> torch.Tensor:
        return random_bits(index, 2, seed=seed).double() / 2**63

    index = torch.arange(20_000)
    first = unit(index, 0)
    for other in (unit(index + 1, 0)[:, 0], first[:, 1], unit(index, 1)[:, 0]):
        assert torch.corrcoef(torch.stack([first[:, 0], other]))[0, 1].abs() < 0.03


def test_the_global_random_state_is_not_touched() -> None:
    before = torch.get_rng_state()
    first = random_bits(torch.arange(4), 2, seed=0)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(99)
    assert random_bits(torch.arange(4), 2, seed=0).equal(first)
