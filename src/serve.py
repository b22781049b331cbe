"""Serve a gate over HTTP, with a page to try it.

python -m src.serve gate=logs/deploy/TIME/gate.pt           at http://127.0.0.1:8000
python -m src.serve gate=FILE host=0.0.0.0 token_file=PATH  for other machines, with a token
python -m src.serve gate=FILE watch=watch.json              an alarm when the stream changes
python -m src.serve gate=FILE workers=4 batch=64            more processes, larger batches
"""

__all__ = ["main", "read_token"]

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig

from src.records.configs import CONF
from src.run.command_line import literally


def read_token(path: str | None) -> str | None:
    """Returns the token in a file, or that of the environment variable GATE_TOKEN, or None.

    Raises:
        ValueError: If the file cannot be read.
    """
    if path is None:
        return os.environ.get("GATE_TOKEN")
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"expected a file with a token, got {path}: {error}; correct token_file="
        ) from None


@literally
@hydra.main(version_base="1.3", config_path=str(CONF), config_name="serve")
def main(cfg: DictConfig) -> None:
    """Composes the configuration and serves."""
    token = read_token(cfg.token_file)
    try:
        from src.service import Limits, serve
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected the packages of the server, got no {error.name}; "
            "pip install 'block-selection[serve]'"
        ) from None
    serve(
        Path(cfg.gate),
        host=cfg.host,
        port=cfg.port,
        workers=cfg.workers,
        batch=cfg.batch,
        accelerator=cfg.accelerator,
        limits=Limits(**cfg.limits),
        token=token,
        trust=cfg.trust,
        watch=None if cfg.watch is None else Path(cfg.watch),
        delta=cfg.delta,
        log_level=cfg.log_level,
    )


if __name__ == "__main__":
    main()
