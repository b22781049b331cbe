"""Where a run is logged: a CSV file always, beside it W&B, TensorBoard or MLflow if asked for."""

from src.loggers.base import Dispensable
from src.loggers.csv_logs import CSVLogger
from src.loggers.media import Histograms, Lines, Media
from src.loggers.mlflow import MLflowLogger, mlflow_logger
from src.loggers.tensorboard import TensorBoardLogger
from src.loggers.wandb import WandbLogger, finish_wandb, wandb_logger

__all__ = [
    "CSVLogger",
    "Dispensable",
    "Histograms",
    "Lines",
    "MLflowLogger",
    "Media",
    "TensorBoardLogger",
    "WandbLogger",
    "finish_wandb",
    "mlflow_logger",
    "wandb_logger",
]
