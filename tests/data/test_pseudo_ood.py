"""Laws of the jigsaw puzzles."""

from copy import copy

import pytest
import torch
from torch import Tensor

from src.data.pseudo_ood import Jigsaw, Jigsaws

SHAPES = [(3, 32, 32), (1, 9, 9), (3, 10, 17), (2, 23, 8)]


def numbered(batch: int, shape: tuple[int, ...]) -> Tensor:
    """Images in which every value occurs once and none is zero."""
    return torch.arange(1.0, 1 + batch * torch.Size(shape).numel()).view(batch, *shape)


def tile(image: Tensor, grid: int, place: int) -> Tensor:
    """A view of one tile of a (C, H, W) image, counted row by row."""
    height, width = image.shape[1] // grid, image.shape[2] // grid
    row, column = place // grid * height, place % grid * width
    return image[:, row : row + height, column : column + width]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", [2, 3, 4])
@pytest.mark.parametrize("border", ["zero", "keep"])
def test_a_puzzle_equals_a_loop_over_tiles(shape: tuple[int, ...], grid: int, border: str) -> None:
    image, index = numbered(6, shape), torch.tensor([5, 0, 3, 1000, 7, 8])
    jigsaw = Jigsaw(grid, border=border, seed=1)
    expected = torch.zeros_like(image) if border == "zero" else image.clone()
    for row, order in enumerate(jigsaw.order(index).tolist()):
        for place, source in enumerate(order):
            tile(expected[row], grid, place).copy_(tile(image[row], grid, source))
    assert jigsaw(image, index).equal(expected)


@pytest.mark.parametrize("grid", [2, 3, 5])
def test_the_tiles_are_only_rearranged(grid: int) -> None:
    image, index = numbered(4, (3, 32, 32)), torch.arange(4)
    puzzle = Jigsaw(grid)(image, index)
    for row in range(4):
        before, after = (
            sorted(tile(x[row], grid, place).flatten().tolist() for place in range(grid**2))
            for x in (image, puzzle)
        )
        assert after == before


@pytest.mark.parametrize(("side", "used"), [(32, 30), (224, 222)])
def test_the_leftover_rows_and_columns_are_black_or_kept(side: int, used: int) -> None:
    image, index = torch.rand(2, 3, side, side) + 0.1, torch.arange(2)
    puzzle = Jigsaw(3)(image, index)
    assert (puzzle[..., used:, :] == 0).all()
    assert (puzzle[..., used:] == 0).all()
    assert (puzzle[..., :used, :used] > 0).all()
    kept = Jigsaw(3, border="keep")(image, index)
    assert kept[..., used:, :].equal(image[..., used:, :])
    assert kept[..., used:].equal(image[..., used:])
    assert kept[..., :used, :used].equal(puzzle[..., :used, :used])


def test_a_puzzle_is_a_function_of_seed_and_index_alone() -> None:
    image, index = torch.rand(50, 3, 12, 12), torch.arange(50) * 11
    jigsaw = Jigsaw(3, seed=4)
    whole = jigsaw(image, index)
    shuffle = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert jigsaw(image[shuffle], index[shuffle]).equal(whole[shuffle])
    parts = [jigsaw(*part) for part in zip(image.split(7), index.split(7), strict=True)]
    assert torch.cat(parts).equal(whole)
    assert Jigsaw(3, seed=4)(image, index).equal(whole)
    assert not Jigsaw(3, seed=5)(image, index).equal(whole)
    assert not jigsaw(image, index + 1).equal(whole)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_a_puzzle_keeps_type_and_input(dtype: torch.dtype) -> None:
    image = (torch.rand(3, 3, 11, 11) * 255).to(dtype)
    before = image.clone()
    strided = image.contiguous(memory_format=torch.channels_last)
    puzzle = Jigsaw(3)(image, torch.arange(3))
    assert puzzle.dtype == dtype
    assert image.equal(before)
    assert Jigsaw(3)(strided, torch.arange(3)).equal(puzzle)


@pytest.mark.parametrize("grid", [2, 3])
def test_only_without_identity_every_image_changes(grid: int) -> None:
    index, places = torch.arange(20_000), torch.arange(grid**2)
    free, changed = (Jigsaw(grid, identity=x).order(index) for x in (True, False))
    unchanged = (free == places).all(dim=1)
    assert not (changed == places).all(dim=1).any()
    assert changed[~unchanged].equal(free[~unchanged])
    assert changed.sort(dim=1).values.equal(places.expand_as(changed))
    if grid == 2:
        assert 600 < unchanged.sum() < 1100  # 20,000 / 4! = 833


@pytest.mark.parametrize("identity", [True, False])
def test_every_order_is_about_equally_likely(identity: bool) -> None:
    order, count = (
        Jigsaw(2, identity=identity).order(torch.arange(24_000)).unique(dim=0, return_counts=True)
    )
    place = torch.arange(4)
    rotated = ((order - place) % 4 == order[:, :1]).all(dim=1) & (order[:, 0] > 0)
    # Without the identity, the three rotations share what would have come out unchanged.
    expected = 1000 + torch.where(rotated, 0 if identity else 1000 / 3, 0)
    assert len(count) == (24 if identity else 23)
    assert rotated.sum() == 3
    assert ((count - expected) ** 2 / expected).sum() < 23 + 6 * 46**0.5


def test_every_tile_is_equally_likely_at_every_place() -> None:
    order = Jigsaw(3).order(torch.arange(27_000))
    count = torch.nn.functional.one_hot(order, 9).sum(dim=0)
    assert ((count - 3000.0) ** 2 / 3000).sum() < 64 + 6 * 128**0.5


@pytest.mark.parametrize("grid", [1, 0, -3])
def test_a_grid_below_two_is_refused(grid: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2, got {grid}"):
        Jigsaw(grid)


def test_an_unknown_border_is_refused() -> None:
    with pytest.raises(ValueError, match="'zero' or 'keep', got 'mean'"):
        Jigsaw(border="mean")


@pytest.mark.parametrize("size", [(4, 9), (9, 4)])
def test_a_grid_larger_than_the_image_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"at most 4.*{size[0]}x{size[1]}, got 5"):
        Jigsaw(5)(torch.zeros(1, 3, *size), torch.zeros(1, dtype=torch.int64))
    assert Jigsaw(4)(torch.ones(1, 3, *size), torch.zeros(1, dtype=torch.int64)).any()


def test_the_global_random_state_is_not_touched() -> None:
    before = torch.get_rng_state()
    Jigsaw(3, identity=False)(torch.rand(0, 3, 9, 9), torch.arange(0))
    Jigsaw(3, identity=False)(torch.ones(4, 3, 9, 9), torch.arange(4))
    assert torch.get_rng_state().equal(before)


def test_the_repr_names_every_argument() -> None:
    text = "Jigsaw(grid=4, border='keep', identity=False, seed=7)"
    assert repr(eval(text)) == text


def test_each_image_is_cut_by_one_of_several_grids() -> None:
    image, index = torch.rand(3000, 1, 12, 12), torch.arange(3000) * 7
    several = Jigsaws((2, 3, 4), border="keep", identity=False, seed=4)
    puzzle, singles = (
        several(image, index),
        [Jigsaw(grid, border="keep", identity=False, seed=4)(image, index) for grid in (2, 3, 4)],
    )
    of = torch.stack([(puzzle == each).flatten(1).all(dim=1) for each in singles])
    assert (of.sum(dim=0) == 1).all()
    assert ((of.sum(dim=1) - 1000.0) ** 2 / 1000).sum() < 2 + 6 * 4**0.5  # about equally often


def test_the_grid_of_an_image_is_a_function_of_seed_and_index_alone() -> None:
    image, index = torch.rand(50, 3, 12, 12), torch.arange(50) * 11
    several = Jigsaws((2, 3, 4), seed=4)
    whole = several(image, index)
    shuffle = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert several(image[shuffle], index[shuffle]).equal(whole[shuffle])
    other = copy(several)
    other.seed = 5
    assert not other(image, index).equal(whole)
    assert other(image, index).equal(Jigsaws((2, 3, 4), seed=5)(image, index))
    assert Jigsaws([3], seed=4)(image, index).equal(Jigsaw(3, seed=4)(image, index))


def test_grids_that_cannot_be_cut_are_refused() -> None:
    assert Jigsaws((2, 6)).smallest == 6
    with pytest.raises(ValueError, match="at least one grid, got none"):
        Jigsaws(())
    with pytest.raises(ValueError, match="at least 2, got 1"):
        Jigsaws((3, 1))
    with pytest.raises(ValueError, match="at most 4 for images of 4x4, got 6"):
        Jigsaws((2, 6))(torch.rand(1, 1, 4, 4), torch.arange(1))
