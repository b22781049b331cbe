"""The registry: complete, https, and of one mind with the libraries that publish checksums."""

import re
from pathlib import PurePosixPath
from urllib.parse import urlparse

import pytest
from hydra import compose, initialize_config_dir
from torchvision import datasets

from src.data.registry import RemoteFile, known, known_names, where_from
from tests import REPOSITORY

CONF = REPOSITORY / "conf"
SETS = {
    "cifar10", "cifar100", "svhn", "textures", "lsun_crop", "lsun_resize", "isun", "places365",
    "tiny_imagenet", "mnist", "fashion_mnist", "imagenet", "inaturalist", "sun", "places",
    "ninco", "ssb_hard", "openimage_o", "benchmark_imglist",
}  # fmt: skip
FETCHED = [(name, file) for name in known_names() for file in known(name).files]
each_file = pytest.mark.parametrize(
    "file", [pytest.param(file, id=f"{name}-{file.name}") for name, file in FETCHED]
)


def test_the_sets_of_the_benchmarks_are_there() -> None:
    assert set(known_names()) >= SETS


@pytest.mark.parametrize("name", known_names())
def test_an_entry_says_where_from_and_what_for(name: str) -> None:
    entry = known(name)
    for text in (entry.title, entry.homepage, entry.licence, entry.terms, entry.citation):
        assert isinstance(text, str)
        assert text
    assert entry.homepage.startswith("https://")
    assert re.search(r"\b(19|20)\d\d\b", entry.citation)
    assert isinstance(entry.images, int)
    assert entry.images > 0 or "OpenOOD" in entry.title
    assert bool(entry.files) != bool(entry.manual)
    assert entry.title in where_from(name)


@each_file
def test_an_address_is_safe_and_leads_to_the_file_itself(file: RemoteFile) -> None:
    assert file.urls
    assert len(set(file.urls)) == len(file.urls)
    for url in file.urls:
        address = urlparse(url)
        assert address.scheme == "https"
        assert address.hostname not in ("drive.google.com", "docs.google.com")
        assert (address.query == "dl=1") == (address.hostname == "www.dropbox.com")
        assert PurePosixPath(address.path).name == PurePosixPath(file.name).name


@each_file
def test_a_file_has_a_checksum(file: RemoteFile) -> None:
    assert file.md5 or file.sha256
    assert file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", file.md5)
    assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    assert file.bytes is None or (isinstance(file.bytes, int) and file.bytes > 0)


def test_only_files_whose_sha256_nobody_publishes_have_none() -> None:
    assert {name for name, file in FETCHED if file.sha256 is None} == {
        "lsun_crop", "lsun_resize", "isun", "inaturalist", "sun", "places", "ninco", "openimage_o"
    }  # fmt: skip


@each_file
def test_a_file_stays_in_the_folder_of_its_set(file: RemoteFile) -> None:
    path = PurePosixPath(file.name)
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert not file.extract or file.name.endswith((".zip", ".tar.gz"))


def test_no_two_files_share_address_or_checksum() -> None:
    urls = [url for _, file in FETCHED for url in file.urls]
    sums = [file.md5 or file.sha256 for _, file in FETCHED]
    assert len(set(urls)) == len(urls)
    assert len(set(sums)) == len(sums)


def test_names_and_checksums_are_those_of_torchvision() -> None:
    md5 = {(name, file.name): file.md5 for name, file in FETCHED}
    for name, cifar in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        assert md5[name, cifar.filename] == cifar.tgz_md5
    _, filename, checksum = datasets.SVHN.split_list["test"]
    assert md5["svhn", filename] == checksum
    archive = PurePosixPath(urlparse(datasets.DTD._URL).path).name
    assert md5["textures", f"dtd/{archive}"] == datasets.DTD._MD5
    for filename, checksum in (
        datasets.Places365._IMAGES_META["val", True],
        datasets.Places365._DEVKIT_META["standard"],
    ):
        assert md5["places365", filename] == checksum
    for name, digits in (("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)):
        assert {
            (name, f"{digits.__name__}/raw/{filename}"): checksum
            for filename, checksum in digits.resources
        } == {key: checksum for key, checksum in md5.items() if key[0] == name}


def test_an_archive_that_torchvision_unpacks_is_left_to_it() -> None:
    readers = ("cifar10", "cifar100", "svhn", "places365", "mnist", "fashion_mnist")
    assert not [file.name for name, file in FETCHED if name in readers and file.extract]


def test_checksums_are_those_of_pytorch_ood() -> None:
    img = pytest.importorskip("pytorch_ood.dataset.img")
    for name, peer in (
        ("lsun_crop", img.LSUNCrop), ("lsun_resize", img.LSUNResize), ("textures", img.Textures),
        ("tiny_imagenet", img.TinyImageNet), ("ninco", img.NINCO),
    ):  # fmt: skip
        assert known(name).files[0].md5 == (getattr(peer, "tgz_md5", None) or peer.tgz_md5s)


def test_protocols_name_known_sets_and_insist_on_their_number_of_images() -> None:
    sources = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for path in (CONF / "data").glob("*.yaml"):
            data = compose("prepare", [f"data={path.stem}", "out=elsewhere"]).data
            sources += [data.train, data.test, *data.ood.values()]
    named = [source for source in sources if "known" in source]
    assert named
    for source in named:
        entry = known(source.known)
        if source.get("count") and entry.images:
            assert source.count == entry.images, source


def test_an_unknown_set_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"expected one of the sets cifar10, .*, got 'cifar11'"):
        known("cifar11")
