"""Frames of a drive, read before they are due."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from cone_perception.replay.drive.schedule import DueFrame

AHEAD_BYTES = 96 * 10**6
"""Read before it is due: 35 raw pictures of 1280x720. One picture more may be in memory."""


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """A picture that was read. read_ns: when, of the monotonic clock."""

    due: DueFrame
    read_ns: int


class ReadAhead:
    """Reads frames in a thread of its own, at most `most_bytes` of them before they are taken.

    So what waits for the disk is this thread, not the detector, and memory does not grow with the
    bag. `take` raises what reading raised.
    """

    def __init__(
        self, frames: Generator[DueFrame, None, None], most_bytes: int = AHEAD_BYTES
    ) -> None:
        self._frames = frames
        self._most_bytes = most_bytes
        self._ahead: deque[ReadFrame] = deque()
        self._bytes = 0
        self._full = False
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name='read ahead', daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def wait_until_full(self) -> None:
        """Until as much is read as may be, or all."""
        with self._changed:
            self._changed.wait_for(lambda: self._full or self._ended)

    def ready(self) -> bool:
        """Tell whether `take` would answer at once."""
        with self._changed:
            return bool(self._ahead) or self._ended

    def take(self) -> ReadFrame | None:
        """The next one; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._ahead or self._ended)
            if not self._ahead:
                if self._error is not None:
                    raise self._error
                return None
            frame = self._ahead.popleft()
            self._bytes -= len(frame.due.message.data)
            self._changed.notify_all()
            return frame

    def _read(self) -> None:
        try:
            for due in self._frames:
                read = ReadFrame(due, time.monotonic_ns())
                del due
                if not self._keep(read):
                    break
                del read  # or the last one is held while the next is read
        except BaseException as error:  # raised again where it is taken
            self._error = error
        finally:
            self._frames.close()  # where it was opened: a bag of SQLite belongs to its thread
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _keep(self, frame: ReadFrame) -> bool:
        """Wait for room; False when nobody wants more."""
        size = len(frame.due.message.data)
        with self._changed:
            if self._ahead and self._bytes + size > self._most_bytes:
                self._full = True
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._stopped or not self._ahead or self._bytes + size <= self._most_bytes
            )
            if self._stopped:
                return False
            self._ahead.append(frame)
            self._bytes += size
            self._changed.notify_all()
            return True
