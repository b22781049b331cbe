"""Tests by room, as in src/: laws of every class of a kind, oracles, and whole runs."""

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
TINY = ("data=digits", "net=resnet18_digits")  # a third of the quickstart's images, and smaller
