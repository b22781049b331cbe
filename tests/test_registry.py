"""The registry: complete, https, and of one mind with the libraries that publish checksums."""

import re
from urllib.parse import urlparse

import pytest
from torchvision import datasets

from src.data.registry import known, known_names

SETS = {
    "cifar10", "cifar100", "svhn", "textures", "lsun_crop", "lsun_resize", "isun", "places365",
    "tiny_imagenet", "mnist", "fashion_mnist", "imagenet", "inaturalist", "sun", "places",
    "ninco", "ssb_hard", "openimage_o", "benchmark_imglist",
}  # fmt: skip
FETCHED = [(name, file) for name in known_names() for file in known(name).files]


def test_the_sets_of_the_benchmarks_are_there() -> None:
    assert set(known_names()) >= SETS


@pytest.mark.parametrize("name", known_names())
def test_an_entry_says_where_from_and_what_for(name: str) -> None:
    entry = known(name)
    for text in (entry.title, entry.homepage, entry.licence, entry.terms, entry.citation):
        assert isinstance(text, str)
        assert text
    assert entry.images > 0 or "OpenOOD" in entry.title
    assert bool(entry.files) != bool(entry.manual)


@pytest.mark.parametrize(
    ("name", "file"), FETCHED, ids=lambda value: str(getattr(value, "name", value))
)
def test_a_file_has_safe_addresses_and_a_checksum_if_one_is_published(name: str, file) -> None:  # type: ignore[no-untyped-def]
    hosts = [urlparse(url).hostname for url in file.urls]
    assert all(url.startswith("https://") for url in file.urls)
    assert hosts
    assert "drive.google.com" not in hosts
    assert file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", file.md5)
    assert file.md5 or name in ("inaturalist", "sun", "places")  # none is published


def test_names_and_checksums_are_those_of_torchvision() -> None:
    md5 = {file.name: file.md5 for _, file in FETCHED}
    for dataset in (datasets.CIFAR10, datasets.CIFAR100):
        assert md5[dataset.filename] == dataset.tgz_md5
    _, filename, checksum = datasets.SVHN.split_list["test"]
    assert md5[filename] == checksum
    assert md5["dtd/dtd-r1.0.1.tar.gz"] == datasets.DTD._MD5
    for place in (
        datasets.Places365._IMAGES_META["val", True],
        datasets.Places365._DEVKIT_META["standard"],
    ):
        assert md5[place[0]] == place[1]
    for digits in (datasets.MNIST, datasets.FashionMNIST):
        for filename, checksum in digits.resources:
            assert md5[f"{digits.__name__}/raw/{filename}"] == checksum


def test_checksums_are_those_of_pytorch_ood() -> None:
    img = pytest.importorskip("pytorch_ood.dataset.img")
    for name, peer in (
        ("lsun_crop", img.LSUNCrop), ("lsun_resize", img.LSUNResize), ("textures", img.Textures),
        ("tiny_imagenet", img.TinyImageNet), ("ninco", img.NINCO),
    ):  # fmt: skip
        assert known(name).files[0].md5 == (getattr(peer, "tgz_md5", None) or peer.tgz_md5s)


def test_an_unknown_set_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"expected one of the sets cifar10, .*, got 'cifar11'"):
        known("cifar11")
