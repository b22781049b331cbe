"""Networks from a file or an address: checked, then read, and rebuilt from what they hold."""

__all__ = ["load_network", "local_file"]

import re
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.checkpoint import load_checkpoint, load_state
from src.classifier import Classifier
from src.data.download import fetch, wrong
from src.data.registry import RemoteFile
from src.network import Network
from src.targets import check_targets

ADDRESS = re.compile(r"https?://")


def load_network(source: str) -> Network:
    """Returns the network of a checkpoint, with its weights and its selection, to be evaluated.

    Args:
        source: as in `local_file`; of `src.train` or `src.release`.

    Raises:
        FileNotFoundError: if there is no such file.
        ConnectionError: if the address does not give it.
        ValueError: if it is another file than the digest says or no checkpoint, or if its
            configuration names what no training of ours calls.

    Example:
        >>> network = load_network("resnet18.pt")  # doctest: +SKIP
        >>> network.observe(image).norm[network.selected]  # doctest: +SKIP
    """
    path = local_file(source)
    checkpoint = load_checkpoint(path)
    check_targets(checkpoint["config"])
    config = OmegaConf.create(checkpoint["config"]).net
    config.weights = None  # those of the checkpoint follow
    classifier = Classifier(instantiate(config))
    load_state(classifier, checkpoint["state_dict"], str(path))
    return classifier.network.eval()


def local_file(source: str) -> Path:
    """Returns the path of a file, after its bytes were checked, and fetched if it is elsewhere.

    Args:
        source: a path or an https address; behind it `@sha256:<64 digits>`, which an address must
            have, as what is fetched once is kept below the folder of torch.hub.

    Raises:
        ConnectionError: if the address does not give the right file.
        OSError: if there is no room for it.
        ValueError: if an address comes without a digest, or the file has another one.
    """
    place, _, digest = source.partition("@sha256:")
    if not ADDRESS.match(place):
        path = Path(place)
        asked = RemoteFile(path.name, (), sha256=digest or None)
        if path.is_file() and (problem := wrong(path, asked)):
            raise ValueError(f"{path}: {problem}; fetch it again, or correct the digest")
        return path
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(
            f"expected the SHA-256 digest behind an address, got {source}; write it behind it: "
            f"{place}@sha256:<64 digits>"
        )
    folder = Path(torch.hub.get_dir(), "checkpoints")
    name = f"{digest[:16]}/{place.rpartition('/')[2]}"
    return fetch(RemoteFile(name, (place,), sha256=digest), folder)
