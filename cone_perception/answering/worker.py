"""The threads that work on the newest frames, so that receiving never waits."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable

from cone_perception.answering.answer import Arrival, Inbox


class Worker:
    """Hands what the inbox gives out to `answer`, one batch in a thread.

    `answer` gets a batch, and `wait_for_turn`, which returns when every batch taken before is done
    with: what comes after it is done in the order of the frames. `answer` must not raise: an
    exception would end its thread. One thread sees a frame through, because handing it on would
    mean waiting for another thread to be woken: on busy cores that takes as long as a network.
    """

    def __init__(
        self,
        inbox: Inbox,
        answer: Callable[[list[Arrival], Callable[[], None]], None],
        threads: int = 1,
    ) -> None:
        self._inbox = inbox
        self._answer = answer
        lock = threading.Lock()
        self._frames = threading.Condition(lock)
        self._turns = threading.Condition(lock)
        self._under_way: deque[object] = deque()
        self._stopping = False
        # Daemons, because a network that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name='worker', daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def offer(self, frame: Arrival) -> list[Arrival]:
        """Put a frame into the inbox; returns those that it pushed out unanswered."""
        with self._frames:
            pushed_out = self._inbox.offer(frame)
            self._frames.notify()
        return pushed_out

    def stop(self, timeout_s: float) -> bool:
        """Let each thread end after the batch that it works on; False when one has not by then."""
        until_s = time.monotonic() + timeout_s
        with self._frames:
            self._stopping = True
            self._frames.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def clear(self) -> list[Arrival]:
        """Take out what still waits; nobody will answer it."""
        with self._frames:
            return self._inbox.clear()

    def _work(self) -> None:
        while True:
            turn = object()
            with self._frames:
                batch: list[Arrival] = []
                while not self._stopping and not (batch := self._inbox.take()):
                    self._frames.wait()
                if self._stopping:
                    return
                self._under_way.append(turn)
            try:
                self._answer(batch, functools.partial(self._wait_for, turn))
            finally:
                with self._turns:
                    self._under_way.remove(turn)
                    self._turns.notify_all()

    def _wait_for(self, turn: object) -> None:
        with self._turns:
            self._turns.wait_for(lambda: self._under_way[0] is turn)
