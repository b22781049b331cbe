"""Hyper-parameters by Optuna, from ID images alone. Imports Optuna when it searches."""

__all__ = ["Outcome", "best_trial", "search"]

from src.search.study import Outcome, best_trial, search
