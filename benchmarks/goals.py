"""The ratios and figures that are wanted, one line each."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import BEST_TUNNEL, OURS, Results, Spread

DIRECT, SOCAT = "direct", "socat"


@dataclass(frozen=True)
class Goal:
    """Row `row` of this project compared with `to` (empty: the figure itself) and a bound."""

    row: str
    to: str
    bound: float
    at_least: bool

    def text(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.bound:g}" + (f" x {self.to}" if self.to else "")

    def measured(self, results: Results, ours: str = OURS) -> Spread | None:
        """Return the ratio, or the figure itself, of this project or another installation of it."""
        if self.row not in results.rows:
            return None
        return results.ratio(self.row, self.to, ours) if self.to else results.spread(self.row, ours)

    def reached(self, results: Results, ours: str = OURS) -> bool | None:
        """By the median; None when it was not measured."""
        spread = self.measured(results, ours)
        if spread is None:
            return None
        return spread.median >= self.bound if self.at_least else spread.median <= self.bound


def _throughput() -> list[Goal]:
    rows = [f"throughput_{streams}_{way}" for streams in (1, 8) for way in ("up", "down")]
    best = [Goal(row, BEST_TUNNEL, 1.3, at_least=True) for row in rows]
    return best + [Goal(row, SOCAT, 1.0, at_least=True) for row in rows]


def _round_trip() -> list[Goal]:
    rows = ("round_trip_p50", "round_trip_p99")
    return [Goal(row, to, 1.0, at_least=False) for row in rows for to in (BEST_TUNNEL, SOCAT)]


def _relay() -> list[Goal]:
    """Ten times the frames and twice the bytes of the Go server porter, and its latency."""
    bounds = {"64": 600_000.0, "1024": 400_000.0, "65536": 2.0, "1048576": 2.0}
    rows = {f"relay_{size}_{visitors}": bounds[size] for size in bounds for visitors in (1, 8)}
    rates = [Goal(row, "", bound, at_least=True) for row, bound in rows.items()]
    return [*rates, Goal("relay_one_way", "", 52.0, at_least=False)]


GOALS: tuple[Goal, ...] = (
    *_throughput(),
    *_round_trip(),
    Goal("connections", BEST_TUNNEL, 1.5, at_least=True),
    Goal("connections", SOCAT, 6.0, at_least=True),
    Goal("http_keep_alive", BEST_TUNNEL, 1.2, at_least=True),
    Goal("http_close", BEST_TUNNEL, 1.2, at_least=True),
    Goal("delay_throughput_1_up", DIRECT, 0.9, at_least=True),
    Goal("delay_throughput_1_down", DIRECT, 0.9, at_least=True),
    *_relay(),
    Goal("idle_stream_server", "", 4.0, at_least=False),
    Goal("idle_lease_server", "", 6.0, at_least=False),
    Goal("registration_seconds", "", 10.0, at_least=False),
    Goal("keepalive_growth", "", 1.3, at_least=False),
    Goal("echo_growth", "", 1.3, at_least=False),
)
