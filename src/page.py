"""Former name of `python -m src.report`, which makes the page of a finished run again."""

__all__ = ["main"]

from src.report.__main__ import main

if __name__ == "__main__":
    main()
