"""The thread that works on the newest frames, so that receiving never waits. Knows no ROS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from cone_perception.ros.inbox import Inbox, Waiting

T = TypeVar('T')


class Worker(Generic[T]):
    """Hands what the inbox gives out to `answer`, one batch at a time, in a thread of its own.

    `answer` must not raise: an exception would end the thread.
    """

    def __init__(self, inbox: Inbox[T], answer: Callable[[list[Waiting[T]]], None]) -> None:
        self._inbox = inbox
        self._answer = answer
        self._changed = threading.Condition()
        self._stopping = False
        # A daemon, because a network that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name='worker', daemon=True)
        self._thread.start()

    def offer(self, frame: Waiting[T]) -> list[Waiting[T]]:
        """Put a frame into the inbox; returns those that it pushed out unanswered."""
        with self._changed:
            pushed_out = self._inbox.offer(frame)
            self._changed.notify()
        return pushed_out

    def stop(self, timeout_s: float) -> bool:
        """Let the thread end after the batch that it works on; False when it has not by then."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def clear(self) -> list[Waiting[T]]:
        """Take out what still waits; nobody will answer it."""
        with self._changed:
            return self._inbox.clear()

    def _work(self) -> None:
        while True:
            with self._changed:
                batch = self._inbox.take()
                while not batch and not self._stopping:
                    self._changed.wait()
                    batch = self._inbox.take()
                if self._stopping:
                    return
            self._answer(batch)
