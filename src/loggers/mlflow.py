"""MLflow without a server: a database file, and artifacts beside it."""

__all__ = ["MLflowLogger", "mlflow_logger"]

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import MLFlowLogger as LightningMLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from src.loggers.base import Dispensable, Silent, over_epochs
from src.loggers.media import Media
from src.records.atomic import try_to_write
from src.records.git_state import git_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_AT_ONCE = 1000  # metrics; MLflow refuses more
SQLITE = "sqlite:///"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 7 by default: minutes, and a run waits for them
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MLflowLogger(Dispensable, LightningMLFlowLogger):
    """Lightning's logger of MLflow; x is the epoch wherever the values have one."""

    keeps_checkpoint = False
    goes_on = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scalars."""
        super().log_metrics(*over_epochs(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the configuration, once: MLflow lets nobody change it."""
        if not self.goes_on:
            super().log_hyperparams(allowed(params), *args, **kwargs)

    def log_results(
        self, scalars: Mapping[str, float], facts: Mapping[str, Any], step: int
    ) -> None:
        """Logs numbers as metrics, words as tags."""
        numbers = {key: facts[key] for key in facts if isinstance(facts[key], float)}
        metrics = [*scalars.items(), *numbers.items()]
        for start in range(0, len(metrics), MOST_AT_ONCE):
            self.log_metrics(dict(metrics[start : start + MOST_AT_ONCE]), step)
        for key in facts.keys() - numbers.keys():
            self.attempt(lambda key=key: self._tag(key, facts[key]))  # type: ignore[misc]

    def _tag(self, key: str, value: Any) -> None:
        self.experiment.set_tag(self.run_id, key, value)

    def log_media(self, media: Media, step: int) -> None:
        """Stores figures and tables as files, charts and images as pictures."""
        self.attempt(lambda: self._store(media))

    def _store(self, media: Media) -> None:
        for name, path in {**media.figures, **media.tables}.items():
            self.experiment.log_artifact(self.run_id, str(path), str(Path(name).parent))
        pictures = {name: lines.picture() for name, lines in media.lines.items()}
        for name, images in media.images.items():
            rows = np.concatenate([np.asarray(image.convert("RGB")) for image, _ in images], 1)
            pictures[name] = Image.fromarray(rows)
        for name, picture in pictures.items():
            self.experiment.log_image(self.run_id, picture, f"{name}.png")

    def log_checkpoint(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Stores the checkpoint in `checkpoints/`."""
        if self.keeps_checkpoint:
            store = self.experiment.log_artifact
            self.attempt(lambda: store(self.run_id, str(path), "checkpoints"))


def mlflow_logger(
    *,
    experiment: str,
    tracking_uri: str,
    name: str | None = None,
    tags: Mapping[str, str | None] | None = None,
    id_file: str | None = None,
    log_checkpoint: bool = False,
) -> Logger:
    """Returns a logger around an MLflow run.

    Args:
        experiment: MLflow's name for what belongs together; made if it is not there.
        tracking_uri: `sqlite:///<file>`, beside which the artifacts are, or address of a server.
        name: name of the run.
        tags: labels of the run; those that are None are left out.
        id_file: keeps the id of the run, so that a run that was cut off goes on as the same one.
        log_checkpoint: whether the best checkpoint is stored too.

    Raises:
        ValueError: if there is no store.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return Silent()
    os.environ.update({key: QUIET[key] for key in QUIET.keys() - os.environ.keys()})
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it raises the errors that it logs
    if tracking_uri.startswith(SQLITE):
        Path(tracking_uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    goes_on = id_file is not None and Path(id_file).exists()
    known = {key: value for key, value in (tags or {}).items() if value is not None}
    try:
        client = MlflowClient(tracking_uri)
        if goes_on:
            run_id = Path(str(id_file)).read_text()
        else:
            at = experiment_id(client, experiment, tracking_uri)
            run_id = client.create_run(at, run_name=name, tags=known | git_tags()).info.run_id
    except MlflowException as error:
        raise ValueError(
            f"expected an MLflow store at {tracking_uri}, got {str(error).splitlines()[0]}; mend "
            "logger.mlflow.tracking_uri, or log without MLflow: logger=csv"
        ) from error
    if id_file is not None:
        try_to_write(Path(id_file), lambda path: path.write_text(run_id))
    logger = MLflowLogger(tracking_uri=tracking_uri, run_id=run_id)
    logger.goes_on, logger.keeps_checkpoint = goes_on, log_checkpoint
    return logger


def allowed(params: Any) -> Any:
    """Returns a configuration with an underscore for what MLflow takes in no name, such as @."""
    if not isinstance(params, Mapping):
        return params
    return {re.sub(r"[^\w\-.:/ ]", "_", str(key)): allowed(params[key]) for key in params}


def git_tags() -> dict[str, str]:
    """Returns the commit, under the name that MLflow's own pages show, and whether it is all."""
    state = git_state()
    if state is None:
        return {}
    return {"mlflow.source.git.commit": state["commit"], "git.dirty": str(state["dirty"])}


def experiment_id(client: "MlflowClient", name: str, tracking_uri: str) -> str:
    """Returns the id of an experiment, which is made if it is not there."""
    from mlflow.exceptions import MlflowException

    artifacts = None  # a server knows where
    if tracking_uri.startswith(SQLITE):
        folder = Path(tracking_uri.removeprefix(SQLITE)).parent / "artifacts"
        artifacts = folder.absolute().as_uri()
    if (found := client.get_experiment_by_name(name)) is None:
        try:
            return client.create_experiment(name, artifacts)
        except MlflowException:  # another run of the sweep was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id
