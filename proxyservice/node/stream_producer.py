"""The producer of a stream, as transports of Twisted have one: paused, resumed, asked, stopped."""

from __future__ import annotations

from typing import Any

from proxyservice.net import foreign

_PRODUCER = "a visitor's producer"


class StreamProducer:
    """None, or the one that is registered; ``failed`` is told what it raises."""

    def __init__(self, clock: Any, failed: foreign.Failed) -> None:
        self._clock = clock
        self._failed = failed
        self._producer: Any = None
        self.is_push = False
        self._is_paused = False
        self._asking = False  # a pull producer, in the next turn

    def __bool__(self) -> bool:
        return self._producer is not None

    def register(self, producer: Any, *, is_push: bool) -> None:
        """It is the one from now on. Raises RuntimeError where there is one."""
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        self._producer, self.is_push = producer, is_push

    def unregister(self) -> tuple[Any, bool]:
        """There is none any more; which it was, and whether it pushes."""
        was = self._producer, self.is_push
        self._producer, self.is_push, self._is_paused = None, False, False
        return was

    def pause(self) -> None:
        """The stream is full; a pull producer is simply not asked."""
        if self.is_push and not self._is_paused:
            self._is_paused = True
            foreign.call(_PRODUCER, self._failed, lambda: self._producer.pauseProducing())

    def resume(self) -> None:
        """It may write, or is asked to."""
        self._is_paused = False
        foreign.call(_PRODUCER, self._failed, lambda: self._producer.resumeProducing())

    def emptied(self) -> None:
        """Everything has left: a paused one goes on, one that pulls is asked again."""
        if not self.is_push:
            self._ask_later()
        elif self._is_paused:
            self.resume()

    def _ask_later(self) -> None:
        """It writes when it is asked: never from within its own write."""
        if not self._asking:
            self._asking = True
            self._clock.callLater(0, self._ask)

    def _ask(self) -> None:
        self._asking = False
        if self._producer is not None and not self.is_push:
            self.resume()

    def stop(self) -> None:
        """Its stream is gone."""
        producer, _ = self.unregister()
        if producer is not None:
            foreign.call(_PRODUCER, None, lambda: producer.stopProducing())
