"""What a request may cost."""

__all__ = ["Limits"]

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of what one request, and all that wait, may take of the machine.

    Args:
        max_bytes: Largest number of bytes of a request.
        max_images: Largest number of images of a request.
        max_pixels: Largest number of pixels of an image, told by its header.
        max_waiting: Largest number of requests that wait for an answer; more are turned away.
        seconds: Longest time to read a request, and then to answer it.

    Raises:
        ValueError: If one is not positive.
    """

    max_bytes: int = 2**25
    max_images: int = 64
    max_pixels: int = 50_000_000
    max_waiting: int = 256
    seconds: float = 30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"expected {name} above 0, got {value}; correct {name}=")
