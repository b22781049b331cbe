"""Laws of mixtures of training images, and of what a training gets to see."""

from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from src.data import (
    Batch,
    BatchSampler,
    Compose,
    CropFlip,
    CutMix,
    Digits,
    ImageData,
    ImageFolder,
    Mixing,
    Mixup,
    Noise,
    TrivialAugment,
)
from src.data.mixing import quantiles
from tests.data.test_augmentation import pictures
from tests.data.test_datamodule import Recorder

K = 5


def pairs(count: int = 60, channels: int = 3) -> tuple[Batch, Batch]:
    image, index = pictures(2 * count, channels), torch.arange(2 * count)
    first, second = index.split(count)
    return Batch(image[first], first % K, first), Batch(image[second], second % 3, second)


def rows(batch: Batch, row: Tensor | slice) -> Batch:
    return Batch(batch.image[row], batch.label[row], batch.index[row])


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mixture_is_a_function_of_seed_epoch_and_index_alone(
    kind: type[Mixing], channels: int
) -> None:
    batch, other = pairs(channels=channels)
    mixing = kind(seed=4)
    whole = mixing(batch, other, 2, K)
    assert whole.image.dtype == torch.uint8
    assert whole.target is not None
    assert not whole.image.equal(batch.image)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for row in (order, slice(10, 25)):
        part = kind(seed=4)(rows(batch, row), rows(other, row), 2, K)
        assert part.target is not None
        assert part.image.equal(whole.image[row])
        assert part.target.equal(whole.target[row])
    for again in (kind(seed=5)(batch, other, 2, K), mixing(batch, other, 3, K)):
        assert not again.image.equal(whole.image)
    assert mixing.partner(batch.index[order], 2, 99).equal(
        mixing.partner(batch.index, 2, 99)[order]
    )


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("alpha", [0.2, 1, 3])
def test_targets_are_the_shares_of_the_two_images(kind: type[Mixing], alpha: float) -> None:
    batch, other = pairs()
    black, white = (torch.full_like(batch.image, value) for value in (0, 255))
    label = torch.zeros(60, dtype=torch.int64)
    mixed = kind(alpha)(
        Batch(white, label, batch.index), Batch(black, label + 1, other.index), 0, K
    )
    assert mixed.target is not None
    assert mixed.target.sum(1).allclose(torch.ones(60))
    assert mixed.label.equal(label)
    share = mixed.image.float().mean((1, 2, 3)) / 255
    assert mixed.target[:, 0].sub(share).abs().max() <= (0.51 / 255 if kind is Mixup else 1e-6)
    assert mixed.target[:, 1].sub(1 - share).abs().max() <= (0.51 / 255 if kind is Mixup else 1e-6)
    same = kind(alpha)(batch, batch, 0, K)
    assert same.image.equal(batch.image)
    assert same.target is not None
    assert same.target.argmax(1).equal(batch.label)
    if kind is Mixup:
        assert mixed.target[:, 0].min() >= 0.5


def test_cutmix_pastes_a_rectangle_of_the_partner() -> None:
    batch, other = pairs()
    white, black = (torch.full_like(batch.image, value) for value in (255, 0))
    mixed = CutMix()(batch._replace(image=white), other._replace(image=black), 0, K)
    pasted = (mixed.image == 0)[:, 0]
    assert pasted.sum((1, 2)).equal(pasted.any(2).sum(1) * pasted.any(1).sum(1))
    assert ((mixed.image == 0) == pasted[:, None]).all()


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    share = quantiles(alpha, torch.device("cpu")).double() / 2**16
    assert share.equal(share.sort().values)
    assert share.mean() == pytest.approx(0.5, abs=1e-3)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=5e-3)


def test_partners_are_other_images_all_equally_likely() -> None:
    index = torch.arange(20_000) % 20
    partner = Mixup().partner(torch.arange(20_000) * 20 + 3, 0, 20)
    assert not (partner == 3).any()
    count = torch.bincount(partner, minlength=20)
    expected = 20_000 / 19
    assert ((count[count > 0] - expected) ** 2 / expected).sum() < 18 + 6 * 36**0.5
    assert Mixup().partner(index, 0, 1).eq(0).all()


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_an_alpha_that_is_not_above_zero_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"alpha above 0, got {alpha}; 1 draws shares uniformly"):
        Mixup(alpha)


def trained(tmp_path: Path, processes: int, rank: int, **options: Any) -> list[tuple[int, Batch]]:
    """The batches of two epochs that one of several processes trains on."""
    data, module = ImageData(
        Digits([3, 5], "train"), Digits([3, 5], "test"), {"noise": Noise(8)},
        batch_size=32 // processes, validation_size=100, **options,
    ), Recorder()  # fmt: skip

    class Part(L.Callback):
        """Gives this process its part of the images, as if there were others."""

        def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            sampler: BatchSampler = trainer.train_dataloader.sampler
            sampler.__init__(  # type: ignore[misc]
                sampler.n, sampler.batch_size, num_replicas=processes, rank=rank, shuffle=True
            )

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_train_batches=2, limit_val_batches=0, callbacks=[Part()],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module.batches


def test_one_and_two_processes_train_on_the_same_mixed_images(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "augmentation": Compose(crop=CropFlip(2), trivial=TrivialAugment()),
        "mixing": CutMix(),
    }
    seen = []
    for runs in ([(1, 0)], [(2, 0), (2, 1)]):
        batches = [each for run in runs for each in trained(tmp_path, *run, **options)]
        images = {}
        for epoch, batch in batches:
            assert batch.target is not None
            for row, index in enumerate(batch.index.tolist()):
                images[epoch, index] = batch.image[row], batch.target[row], batch.label[row]
        seen.append(images)
    one, two = seen
    assert one.keys() == two.keys()
    assert Counter(epoch for epoch, _ in one) == {0: 64, 1: 64}
    for key, values in one.items():
        assert all(a.equal(b) for a, b in zip(values, two[key], strict=True))


def test_a_training_image_is_mixed_with_another_as_that_one_is_augmented(tmp_path: Path) -> None:
    crop, mixing = CropFlip(2, seed=1), Mixup(seed=1)
    data = ImageData(Digits([3, 5], "train"), Digits([3, 5], "test"), {}, validation_size=100)
    images = data._part("train")
    for epoch, batch in trained(tmp_path, 1, 0, augmentation=crop, mixing=mixing):
        row = mixing.partner(batch.index, epoch, len(images))
        own, other = (
            each._replace(image=crop(each.image, each.index, epoch))
            for each in (images[batch.index], images[row])
        )
        expected = mixing(own, other, epoch, 2)
        assert batch.image.equal(expected.image.float() / 255)
        assert batch.target is not None
        assert batch.target.equal(expected.target)
        assert batch.label.equal(images[batch.index].label)


def test_images_that_are_decoded_when_used_are_not_mixed(image_folders: Path) -> None:
    folders = [ImageFolder(image_folders / "cifar10" / part, 32, in_memory=False)
               for part in ("train", "test")]  # fmt: skip
    data = ImageData(*folders, {}, batch_size=2, validation_size=4, mixing=Mixup())
    with pytest.raises(ValueError, match=r"training images in memory, .* set data\.mixing=null"):
        data.setup("fit")
