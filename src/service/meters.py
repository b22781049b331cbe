"""What Prometheus reads: requests, images, p-values and times."""

__all__ = ["Meters"]

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

P_VALUES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Meters:
    """Counts what the server does.

    The share of flagged images is `gate_images_total{decision="OOD"}` over all decisions. For ID
    images, the p-values are spread evenly within (0, 1].
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gate_requests", "Requests by status code", ["code"], registry=self.registry
        )
        self.images = Counter(
            "gate_images", "Images by decision", ["decision"], registry=self.registry
        )
        self.p_value = Histogram(
            "gate_p_value", "P-values of images", buckets=P_VALUES, registry=self.registry
        )
        self.seconds = Histogram(
            "gate_request_seconds", "Seconds to answer about images", buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "gate_requests_waiting", "Requests that wait for an answer", registry=self.registry
        )

        self.capital = Gauge(
            "gate_watch_log10_capital", "Capital of each martingale", ["martingale"],
            registry=self.registry,
        )  # fmt: skip
        self.watched = Gauge("gate_watch_images", "Images watched", registry=self.registry)
        self.alarm = Gauge("gate_watch_alarm", "1 after the alarm", registry=self.registry)

    def watch(self, position: int, capital: Mapping[str, float], alarm: bool) -> None:
        """Tells of the watch after its latest image.

        Args:
            position: Number of images watched.
            capital: Martingale -> log10 of its capital.
            alarm: Whether the alarm has been raised.
        """
        self.watched.set(position)
        self.alarm.set(alarm)
        for name, value in capital.items():
            self.capital.labels(name).set(value)

    def count(self, decision: str, p_value: float | None) -> None:
        """Counts an image.

        Args:
            decision: "ID", "OOD" or "error".
            p_value: Its p-value; None if it was broken.
        """
        self.images.labels(decision).inc()
        if p_value is not None:
            self.p_value.observe(p_value)

    def text(self) -> bytes:
        """Returns all meters in the text format of Prometheus."""
        return generate_latest(self.registry)
