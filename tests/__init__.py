"""Tests by room, as in src/: laws of every class of a kind, oracles, and whole runs."""

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
