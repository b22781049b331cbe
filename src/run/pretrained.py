"""Trained networks by name, file or address: checked first, then read and rebuilt."""

__all__ = ["load_network", "local_file", "released_networks"]

import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
import yaml
from filelock import FileLock
from omegaconf import OmegaConf

from src.classifier import Classifier
from src.data.download import fetch, writing, wrong
from src.data.registry import RemoteFile
from src.network import Network
from src.run.checkpoint import load_checkpoint, load_state
from src.run.configuration import OF_THIS_RUN, without_weights
from src.run.rebuild import network_of
from src.run.targets import admitted

ROOT = Path(__file__).parents[2]
RELEASED = Path(__file__).with_name("released.yaml")


def load_network(source: str) -> Network:
    """Returns the network of a checkpoint with its weights and selection, in evaluation mode.

    Args:
        source: Name, path or address of a file of `src.train` or `src.release`; see `local_file`.

    Raises:
        FileNotFoundError: If there is neither such a file nor such a name.
        ConnectionError: If the download fails.
        ValueError: If the file does not match its digest, is no checkpoint, has weights that are
            not finite, or has a configuration that calls anything a training of this project does
            not call.
    """
    path = local_file(source)
    checkpoint = load_checkpoint(path)
    kept = admitted(checkpoint["config"], path, replaced=OF_THIS_RUN)
    config = OmegaConf.create(kept)  # `net` may refer to other groups
    state = checkpoint["state_dict"]
    classifier = Classifier(network_of(without_weights(config.net), state, path))
    load_state(classifier, state, str(path))
    return classifier.network.eval()


def released_networks() -> dict[str, str]:
    """Returns the released networks: name -> path or address @sha256:digest.

    Paths are relative to the repository; a model card lies beside each file.
    """
    networks: dict[str, str] = yaml.safe_load(RELEASED.read_text())
    return networks


def local_file(source: str) -> Path:
    """Returns the local path of a file after checking its bytes; downloads it if necessary.

    Args:
        source: Name in `released_networks`, path, or https address. A path may and an address
            must end in `@sha256:<64 digits>`. Downloads are kept in the folder of torch.hub.

    Raises:
        ConnectionError: If the address does not deliver the right file.
        FileNotFoundError: If `source` is neither a file nor a name.
        OSError: If there is no room for the file.
        ValueError: If the digest differs, or an address has no digest or is not https.
    """
    named = released_networks().get(source)
    place, mark, digest = (named or source).partition("@sha256:")
    is_address = "://" in place
    if (mark or is_address) and not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(
            f"expected a SHA-256 digest of 64 digits, 0-9 and a-f, behind {place}, got {source}; "
            f"write {place}@sha256:<digest>, as in the model card"
        )
    if not is_address:
        path = ROOT / place if named else Path(place)
        if named and not path.is_file():
            raise FileNotFoundError(
                f"expected the weights {source} in {path}, got no such file; an installed "
                f"package lacks them: get {place} from the repository, and set "
                f"checkpoint=<its path>@sha256:{digest}"
            )
        if not path.is_file():
            raise FileNotFoundError(
                f"expected a checkpoint, got no file at {path}; set checkpoint= to the path or "
                f"https address of one, or to a name: {', '.join(released_networks())}"
            )
        asked = RemoteFile(path.name, (), sha256=digest or None)
        if problem := wrong(path, asked):
            raise ValueError(f"{path}: {problem}; fetch it again, or correct the digest")
        return path
    folder = Path(torch.hub.get_dir(), "checkpoints")
    name = PurePosixPath(urlparse(place).path)
    asked = RemoteFile(f"{name.stem}-{digest[:16]}{name.suffix}", (place,), sha256=digest)
    lock = folder / f".{asked.name}.lock"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock):  # only one process of torchrun downloads
                return fetch(asked, folder)
        finally:
            lock.unlink(missing_ok=True)
