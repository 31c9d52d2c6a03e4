"""What a benchmark says: a figure beside the peer or the limit measured in the same run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work to do. `short` is the form for CI: small inputs, one round, the same code."""

    rounds: int
    short: bool

    def of(self, full: int, short: int) -> int:
        """`full`, or `short` in the short form."""
        return short if self.short else full


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of `build/bench.json`.

    `ratio` is value / peer_value: above 1 is better where more is better (rates), below 1 where less is
    better (times, memory); `better` says which.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    better: str = "higher"
    target: str = ""
    note: str = ""

    @property
    def ratio(self) -> float:
        """The figure over its peer's."""
        return self.value / self.peer_value if self.peer_value else float("nan")


def medians(rounds: int, methods: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each method; the methods take turns, so that a slow minute hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            started = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}
