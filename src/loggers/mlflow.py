"""MLflow without a server: a database file with the artifacts next to it."""

__all__ = ["MLflowLogger", "mlflow_logger"]

import logging
import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import MLFlowLogger as LightningMLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from src.loggers.base import Dispensable, Silent, needs, over_epochs
from src.loggers.media import Media
from src.records.atomic import try_to_write
from src.records.git_state import git_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_AT_ONCE = 1000  # metrics in one request; MLflow refuses more
SQLITE = "sqlite:///"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default of 7 can hold up a run for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MLflowLogger(Dispensable, LightningMLFlowLogger):
    """Lightning's MLflow logger, with the epoch as x value where there is one."""

    keeps_checkpoint = False
    is_resumed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scalars."""
        super().log_metrics(*over_epochs(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the configuration, unless the run is resumed: MLflow does not let it change."""
        if not self.is_resumed:
            super().log_hyperparams(allowed(params), *args, **kwargs)

    def log_results(
        self, scalars: Mapping[str, float], facts: Mapping[str, Any], step: int
    ) -> None:
        """Logs numbers as metrics and text as tags."""
        numbers = {key: facts[key] for key in facts if isinstance(facts[key], float)}
        metrics = [*scalars.items(), *numbers.items()]
        for start in range(0, len(metrics), MOST_AT_ONCE):
            self.log_metrics(dict(metrics[start : start + MOST_AT_ONCE]), step)
        for key in facts.keys() - numbers.keys():
            self.attempt(lambda key=key: self._tag(key, facts[key]))  # type: ignore[misc]

    def _tag(self, key: str, value: Any) -> None:
        self.experiment.set_tag(self.run_id, key, value)

    def log_media(self, media: Media, step: int) -> None:
        """Stores figures and tables as files, and charts and images as pictures."""
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


@needs("mlflow", "sqlalchemy", "alembic", extra="mlflow")
def mlflow_logger(
    *,
    experiment: str,
    tracking_uri: str,
    name: str | None = None,
    tags: Mapping[str, str | None] | None = None,
    id_file: str | None = None,
    log_checkpoint: bool = False,
) -> Logger:
    """Returns a logger for a new MLflow run, or for the one to resume.

    Args:
        experiment: MLflow experiment of the run; created if it does not exist.
        tracking_uri: `sqlite:///<file>`, with artifacts next to it, or the address of a server.
        name: Name of the run.
        tags: Labels of the run; labels that are None are left out.
        id_file: File that keeps the id of the run, so that a resumed run continues it.
        log_checkpoint: Whether to store the best checkpoint too.

    Raises:
        ValueError: If the store cannot be opened.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return Silent()
    os.environ.update({key: QUIET[key] for key in QUIET.keys() - os.environ.keys()})
    from mlflow.exceptions import MlflowException

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # its errors are raised as well
    is_resumed = id_file is not None and Path(id_file).exists()
    try:
        known = Path(str(id_file)).read_text() if is_resumed else None
        run_id = open_run(experiment, tracking_uri, known, name=name, tags=tags or {})
    except MlflowException as error:
        raise ValueError(
            f"expected an MLflow store at {tracking_uri}, got {str(error).splitlines()[0]}; "
            "correct logger.mlflow.tracking_uri, or run without MLflow: logger=csv"
        ) from error
    if id_file is not None:
        try_to_write(Path(id_file), lambda path: path.write_text(run_id))
    logger = MLflowLogger(tracking_uri=tracking_uri, run_id=run_id)
    logger.is_resumed, logger.keeps_checkpoint = is_resumed, log_checkpoint
    return logger


def open_run(
    experiment: str,
    tracking_uri: str,
    run_id: str | None,
    *,
    name: str | None,
    tags: Mapping[str, str | None],
) -> str:
    """Returns the id of a run: of the given one, or of a new one."""
    from mlflow import MlflowClient

    if tracking_uri.startswith(SQLITE):
        Path(tracking_uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri)
    if run_id is not None:
        if tracking_uri.startswith(SQLITE):
            follow(Path(tracking_uri.removeprefix(SQLITE)))
        return run_id
    at = experiment_id(client, experiment, tracking_uri)
    known = {key: value for key, value in tags.items() if value is not None}
    opened: str = client.create_run(at, run_name=name, tags=known | git_tags()).info.run_id
    return opened


def follow(database: Path) -> None:
    """Keeps artifacts beside the database, also where that was moved or copied to.

    MLflow writes their absolute address into it once, and has no command that changes it.
    """
    here = (database.parent / "artifacts").absolute().as_uri()
    places = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
    with closing(sqlite3.connect(database)) as opened, opened:
        for (home,) in opened.execute("SELECT artifact_location FROM experiments").fetchall():
            if not re.fullmatch("file:.*/artifacts", str(home)):
                continue
            for table, column in places:
                opened.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column} || '/', 1, ?) = ?",
                    (here, len(home) + 1, len(home) + 1, f"{home}/"),
                )


def allowed(params: Any) -> Any:
    """Returns a configuration whose keys MLflow accepts: others, such as @, become underscores."""
    if not isinstance(params, Mapping):
        return params
    return {re.sub(r"[^\w\-.:/ ]", "_", str(key)): allowed(params[key]) for key in params}


def git_tags() -> dict[str, str]:
    """Returns the git commit under MLflow's own name for it, and whether files were changed."""
    state = git_state()
    if state is None:
        return {}
    return {"mlflow.source.git.commit": state["commit"], "git.dirty": str(state["dirty"])}


def experiment_id(client: "MlflowClient", name: str, tracking_uri: str) -> str:
    """Returns the id of an experiment, which is created if it does not exist."""
    from mlflow.exceptions import MlflowException

    artifacts = None  # the server decides
    if tracking_uri.startswith(SQLITE):
        folder = Path(tracking_uri.removeprefix(SQLITE)).parent / "artifacts"
        artifacts = folder.absolute().as_uri()
    if (found := client.get_experiment_by_name(name)) is None:
        try:
            return client.create_experiment(name, artifacts)
        except MlflowException:  # another run of the sweep created it first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id
