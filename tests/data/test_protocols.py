"""Each published protocol, on small images laid out as the real sets are."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from scipy.io import savemat
from torchvision import datasets, transforms

from src.data import ImageData, ImageSet, StoredImages
from tests import REPOSITORY

CONF = REPOSITORY / "conf"
OPENOOD = {
    "openood_cifar10": ("cifar10", 10, "cifar100 tin", "mnist svhn texture places365"),
    "openood_cifar100": ("cifar100", 100, "cifar10 tin", "mnist svhn texture places365"),
    "openood_imagenet200": (
        "imagenet200", 200, "ssb_hard ninco", "inaturalist textures openimage_o"
    ),
    "openood_imagenet": ("imagenet", 1000, "ssb_hard ninco", "inaturalist textures openimage_o"),
}  # fmt: skip
CIFAR = ("paper_cifar10", "energy_cifar10")
COUNTS = {
    "svhn": 26032, "textures": 5640, "lsun_crop": 10000, "lsun_resize": 10000, "isun": 8925,
    "places365": 36500,
}  # fmt: skip


def protocol(name: str, data_dir: Path, *, real_counts: bool = False) -> DictConfig:
    """The configuration, for images of any number unless real counts are asked for."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("prepare", [f"data={name}", f"data_dir={data_dir}", "out=elsewhere"]).data
    OmegaConf.set_struct(cfg, False)
    cfg.validation_size = 1
    cfg.cache_dir = None
    for source in () if real_counts else (cfg.train, cfg.test, *cfg.ood.values()):
        source.count = None
        source.sample = None
    return cfg


def photo(path: Path, width: int, height: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixel = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixel).save(path)
    return path


@pytest.fixture
def cifar_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 and its OOD sets of two images each, in the formats of their authors."""

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    folder = tmp_path / "cifar10/cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("data_batch_1", "test_batch"):
        pixel = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixel, "labels": [*range(10)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    patch = monkeypatch.setattr
    for attribute, name in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        patch(datasets.CIFAR10, attribute, [[name, md5(folder / name)]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    patch(datasets.CIFAR10, "meta", meta)

    svhn = tmp_path / "svhn/test_32x32.mat"
    svhn.parent.mkdir()
    savemat(svhn, {"X": rng.integers(0, 256, (32, 32, 3, 2), dtype=np.uint8), "y": [[1], [10]]})
    patch(datasets.SVHN, "split_list", {"test": ["", svhn.name, md5(svhn)]})

    for split in ("train", "val", "test"):
        photo(tmp_path / f"textures/dtd/dtd/images/dots/{split}.jpg", 60, 40, seed=len(split))
        labels = tmp_path / f"textures/dtd/dtd/labels/{split}1.txt"
        labels.parent.mkdir(exist_ok=True)
        labels.write_text(f"dots/{split}.jpg\n")

    places = tmp_path / "places365"
    for row in (1, 2):
        photo(places / f"val_256/{row}.jpg", 64, 64, seed=row)
    categories, listed = places / "categories_places365.txt", places / "places365_val.txt"
    categories.write_text("/a/airfield 0\n")
    listed.write_text("1.jpg 0\n2.jpg 0\n")
    patch(datasets.Places365, "_CATEGORIES_META", (categories.name, md5(categories)))
    patch(datasets.Places365, "_FILE_LIST_META", {"val": (listed.name, md5(listed))})

    for name in ("lsun_crop/LSUN/test", "lsun_resize/LSUN_resize", "isun/iSUN/iSUN_patches"):
        for row in range(2):
            photo(tmp_path / name / f"{row}.png", 36 if "crop" in name else 32, 32, seed=row)
    return tmp_path


@pytest.mark.parametrize("name", CIFAR)
def test_the_cifar_protocols_read_the_sets_of_their_authors(name: str, cifar_dir: Path) -> None:
    data: ImageData = instantiate(protocol(name, cifar_dir))
    data.setup("test")
    assert data.protocol == name
    counts = {each: facts["images"] for each, facts in data.sets.items()}
    two = dict.fromkeys(("svhn", "lsun_crop", "lsun_resize", "isun", "places365"), 2)
    assert counts == {"id": 10, **two, "textures": 3}
    test = data.loaded["id"]
    assert isinstance(test, ImageSet)
    assert test.label.tolist() == [*range(10)]
    textures = data.loaded["textures"]
    assert isinstance(textures, ImageSet)
    assert textures.label.tolist() == [-1] * 3
    photo = Image.open(cifar_dir / "textures/dtd/dtd/images/dots/train.jpg")
    size = [32, 32] if name == "paper_cifar10" else 32  # squashed; or resized and cropped
    how = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(32)])
    np.testing.assert_array_equal(
        textures.image[0].permute(1, 2, 0).numpy(), np.asarray(how(photo))
    )


@pytest.mark.parametrize("name", CIFAR)
def test_the_cifar_protocols_insist_on_the_number_of_images(name: str, cifar_dir: Path) -> None:
    cfg = protocol(name, cifar_dir, real_counts=True)
    assert {each: source.count for each, source in cfg.ood.items()} == COUNTS
    for source in cfg.ood.values():
        with pytest.raises(Exception, match=r"expected \d+ images in .* as the protocol requires"):
            instantiate(source).load()


@pytest.mark.parametrize("name", OPENOOD)
def test_the_protocols_of_openood_read_its_lists(name: str, tmp_path: Path) -> None:
    lists, classes, near, far = OPENOOD[name]
    large = "imagenet" in name
    for part in ("train", "test"):
        lines = []
        for row in range(classes - 2, classes):
            image = f"{lists}/{part}/{row}/a {row}.png"
            photo(tmp_path / f"images_{'largescale' if large else 'classic'}" / image, 40, 36, row)
            lines.append(f"{image} {row}")
        write(tmp_path / f"benchmark_imglist/{lists}/{part}_{lists}.txt", lines)
    for each in (near + " " + far).split():
        root = "classic" if not large or each == "textures" else "largescale"
        photo(tmp_path / f"images_{root}/{each}/x.png", 300, 200)
        write(tmp_path / f"benchmark_imglist/{lists}/test_{each}.txt", [f"{each}/x.png -1"])
    data: ImageData = instantiate(protocol(name, tmp_path))
    data.setup("test")
    assert data.protocol == name.replace("openood", "openood_v1.5")
    assert data.num_classes == classes
    assert data.groups == {"near": tuple(near.split()), "far": tuple(far.split())}
    size, short = (224, 256) if large else (32, 32)
    how = transforms.Compose([transforms.Resize(short), transforms.CenterCrop(size)])
    for each in data.sources[1:]:
        batch = data.loaded[each][torch.tensor([0])]
        assert isinstance(data.loaded[each], StoredImages if large else ImageSet)
        assert batch.label.tolist() == [-1]
        expected = np.asarray(how(Image.open(next(tmp_path.glob(f"images_*/{each}/x.png")))))
        np.testing.assert_array_equal(batch.image[0].permute(1, 2, 0).numpy(), expected)
    assert data.loaded["id"][torch.arange(2)].label.tolist() == [classes - 2, classes - 1]


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_openood_cifar_insists_on_nine_thousand_test_images(tmp_path: Path) -> None:
    for name, other in (("openood_cifar10", "cifar100"), ("openood_cifar100", "cifar10")):
        cfg = protocol(name, tmp_path, real_counts=True)
        assert (cfg.train.count, cfg.test.count, cfg.ood[other].count) == (50000, 9000, 9000)


def test_the_paper_s_imagenet_protocol_reads_folders(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for wnid in ("n01", "n02"):
            photo(tmp_path / f"imagenet/{part}/{wnid}/a.JPEG", 300, 260)
    for name in (
        "inaturalist/images",
        "sun/images",
        "places/images",
        "textures/dtd/dtd/images/dots",
    ):
        photo(tmp_path / name / "x.jpg", 300, 260)
    data: ImageData = instantiate(protocol("paper_imagenet", tmp_path))
    data.setup("test")
    assert data.sources == ("id", "inaturalist", "sun", "places", "textures")
    assert {facts["images"] for name, facts in data.sets.items() if name != "id"} == {1}
    assert data.sets["sun"]["view"].startswith(
        "resize the short side to 256, crop the central 224"
    )


def test_local_is_the_folders_complete_to_the_last_image(tmp_path: Path) -> None:
    cfg, folders = (
        protocol(name, tmp_path, real_counts=True) for name in ("local", "cifar10_folder")
    )
    assert cfg.protocol == "local"
    assert {name: source.count for name, source in cfg.ood.items()} == {
        "svhn": 10000, "textures": 1200, "tiny_imagenet": 10140, "scenes_resize": 5000,
        "scenes_crop": 5000,
    }  # fmt: skip
    for name, source in folders.ood.items():
        assert {**cfg.ood[name], "count": None} == {**source, "count": None}
