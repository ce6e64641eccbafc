"""What happened in a simulated hour: the last events, and what was wrong in the log."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.logger import formatEvent

TRACED = 60
"""Events that are shown of a seed that fails."""


class Story:
    """Kept by a world, which knows the time."""

    def __init__(self) -> None:
        self._trace: deque[tuple[float, Any]] = deque(maxlen=TRACED)
        self.problems: list[str] = []

    def tell(self, at: float, *words: object) -> None:
        self._trace.append((at, words))

    def logged(self, at: float, event: Any, *, is_meant: bool = False) -> None:
        """A failure is a problem, unless this world has made it itself."""
        self._trace.append((at, event))
        failure = event.get("log_failure")
        if failure is not None and not is_meant:
            self.problems.append(f"logged: {failure.getTraceback()}")

    def text(self) -> str:
        """A line for each event."""
        return "\n".join(
            f"{at:10.3f}  "
            + (
                "  the log: " + str(formatEvent(what))
                if isinstance(what, dict)
                else " ".join(str(word) for word in what)
            )
            for at, what in self._trace
        )
