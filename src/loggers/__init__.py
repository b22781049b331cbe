"""Where a run is logged: always to a CSV file, on request also to W&B, TensorBoard or MLflow."""

from src.loggers.base import Dispensable, finish, needs
from src.loggers.csv_logs import CSVLogger
from src.loggers.media import Histograms, Lines, Media
from src.loggers.mlflow import MLflowLogger, mlflow_logger
from src.loggers.tensorboard import TensorBoardLogger
from src.loggers.wandb import WandbLogger, wandb_logger

__all__ = [
    "CSVLogger",
    "Dispensable",
    "Histograms",
    "Lines",
    "MLflowLogger",
    "Media",
    "TensorBoardLogger",
    "WandbLogger",
    "finish",
    "mlflow_logger",
    "needs",
    "wandb_logger",
]
