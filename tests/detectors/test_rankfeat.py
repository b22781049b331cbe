"""RankFeat: the singular value decomposition of numpy, in networks of all layouts."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor, nn

from src.detectors.rankfeat import RankFeat, without_first_direction
from src.network import Network


class Tokens(nn.Module):
    """A class token before 4 x 4 patches of 6 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 6, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, image: Tensor) -> Tensor:
        patch = self.patch(image).flatten(2).mT
        return torch.cat([self.token.expand(len(image), 1, 6), patch], dim=1)


class ChannelsLast(nn.Module):
    """(B, C, H, W) -> (B, H, W, C)."""

    def forward(self, image: Tensor) -> Tensor:
        return image.movedim(1, 3)


class FirstToken(nn.Module):
    """(B, N, C) -> (B, C)."""

    def forward(self, token: Tensor) -> Tensor:
        return token[:, 0]


class Mix(nn.Module):
    """Every token is moved by the mean of all."""

    def forward(self, token: Tensor) -> Tensor:
        return torch.tanh(token + token.mean(dim=1, keepdim=True))


def of_stages() -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(),
        nn.Conv2d(20, 20, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(320, 3),
    )  # fmt: skip
    return Network(net, ("1", "3", "6", "8"), image_shape=(1, 8, 8)).eval()


def of_tokens() -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(Tokens(), Mix(), Mix(), Mix(), FirstToken(), nn.Linear(6, 3))
    return Network(net, ("1", "2", "3"), image_shape=(1, 8, 8)).eval()


def of_channels_last() -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), ChannelsLast(), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(),
        nn.Flatten(), nn.Linear(320, 3),
    )  # fmt: skip
    return Network(net, ("2", "4"), image_shape=(1, 8, 8)).eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("network", "blocks", "chosen", "steps"),
    [
        (of_stages(), None, ("3", "8"), (3, 8)),
        (of_stages(), ["6"], ("6",), (6,)),
        (of_tokens(), None, ("2",), (2,)),
        (of_tokens(), ["1", "2"], ("1", "2"), (1, 2)),
        (of_channels_last(), ["2", "4"], ("2", "4"), (2, 4)),
    ],
)
@torch.no_grad()
def test_rankfeat_is_the_energy_of_what_the_network_makes_of_the_remainder(
    network: Network, blocks: list[str] | None, chosen: tuple[str, ...], steps: tuple[int, ...]
) -> None:
    image, detector = images(7), RankFeat(blocks)
    assert detector.blocks_of(network) == chosen
    logits = np.zeros((7, 3))
    for step in steps:
        output = network.net[: step + 1]((image - network.mean) / network.std)
        layout = network.places[str(step)].layout
        matrix = output.flatten(2) if layout == "channels_first" else output.flatten(1, -2)
        remainder = []
        for m in matrix.double().numpy():
            u, s, v = np.linalg.svd(m, full_matrices=False)
            remainder.append(m - s[0] * np.outer(u[:, 0], v[0]))
        changed = torch.tensor(np.stack(remainder)).view(output.shape).float()
        logits += network.net[step + 1 :](changed).double().numpy() / len(steps)
    expected = torch.tensor(logsumexp(logits, axis=1))
    seen = network.observe(image)
    torch.testing.assert_close(detector.score(seen), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(seen.logits.double().logsumexp(dim=1), expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(9, 4, 6), (9, 6, 4), (9, 1, 5), (9, 5, 5)])
def test_what_is_left_has_the_other_singular_values(shape: tuple[int, int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.linalg.svdvals(matrix)
    after = torch.linalg.svdvals(without_first_direction(matrix))
    torch.testing.assert_close(after[:, :-1], before[:, 1:], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(after[:, -1], torch.zeros(9, dtype=torch.float64))


def test_nothing_is_left_of_rank_one_or_of_zeros() -> None:
    matrix = torch.outer(torch.rand(4), torch.rand(7)).expand(3, 4, 7)
    assert without_first_direction(matrix).abs().max() < 1e-6
    assert without_first_direction(torch.zeros(2, 3, 4)).eq(0).all()


def test_half_precision_stays_what_it_is_and_does_not_overflow() -> None:
    matrix = 6e4 * torch.rand(3, 4, 7).half()
    left = without_first_direction(matrix)
    assert left.dtype == torch.float16
    assert left.isfinite().all()


def test_the_network_is_left_as_it_was_even_after_an_error() -> None:
    network = of_stages()
    seen = network.observe(images(3))
    RankFeat().score(seen)
    assert network(images(3)).equal(seen.logits)
    wrong = network.observe(images(3))
    object.__setattr__(wrong, "image", torch.zeros(3, 2, 8, 8))
    with pytest.raises(RuntimeError):
        RankFeat().score(wrong)
    assert all(not module._forward_hooks for module in network.modules())


def test_maps_of_one_size_give_the_block_before_the_last() -> None:
    assert RankFeat().blocks_of(of_channels_last()) == ("2",)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    assert RankFeat().blocks_of(Network(net, ("1",), image_shape=(1, 8, 8))) == ("1",)


def test_a_block_that_is_none_is_refused() -> None:
    network = of_stages()
    with pytest.raises(ValueError, match="expected a block of Sequential, got '7'"):
        RankFeat(["7"]).score(network.observe(images(1)))
