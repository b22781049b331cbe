"""Searches hyper-parameters with Optuna, using ID images only.

Optuna is imported when a search starts.
"""

__all__ = ["Outcome", "best_trial", "search"]

from src.search.study import Outcome, best_trial, search
