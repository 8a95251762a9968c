"""A drive -> its pictures in the order in which they are due, each read before it is."""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from cone_perception.bags.reader import CAMERA_INFO, BagMessage, open_bag, read_messages
from cone_perception.errors import SourceError
from cone_perception.images import camera_info_topic
from cone_perception.replay.traces import Drive, Pace

AHEAD_BYTES = 96 * 10**6
"""Read before it is due: 35 raw pictures of 1280x720. One picture more may be in memory."""


@dataclass(frozen=True, slots=True)
class DueFrame:
    """One picture, and when it is to be sent.

    camera: index in the drive's cameras. index: among the pictures of that camera, from 0.
    due_ns: after the beginning of the pass; 0 at a fast pace, where the next one goes when it can.
    info: the last camera_info of the camera that was recorded before it, or the first one of all.
    """

    camera: int
    index: int
    due_ns: int
    message: BagMessage
    info: BagMessage | None = None


def due_frames(drive: Drive, pace: Pace, problems: list[str]) -> Generator[DueFrame, None, None]:
    """Every picture of the drive, the first due first; read when it is asked for.

    Where the bag is cut off or damaged the drive ends, and `problems` gets to know it.
    A picture that was recorded at time zero is due at once.
    Raises SourceError for the bag's own pace when all pictures were recorded at one moment.
    """
    if pace.kind == 'hz':
        yield from _evenly(drive, pace.hz, problems)
        return
    if pace.kind == 'bag' and drive.frames > len(drive.cameras) and drive.duration_s <= 0:
        raise SourceError(
            f'{drive.bag}: all pictures were recorded at one moment, so it has no pace of its own: '
            'give --hz, or --as-fast-as-possible'
        )
    number = {camera.topic: index for index, camera in enumerate(drive.cameras)}
    infos = first_infos(drive)
    info_of = {message.topic: camera for camera, message in infos.items()}
    counts = [0] * len(drive.cameras)
    first_ns: int | None = None
    with open_bag(drive.bag) as reader:
        for message in read_messages(reader, {**number, **info_of}, problems=problems):
            if message.topic in info_of:
                infos[info_of[message.topic]] = message
                continue
            camera = number[message.topic]
            due_ns = 0
            if pace.kind == 'bag' and message.time_ns:
                first_ns = message.time_ns if first_ns is None else first_ns
                due_ns = max(0, round((message.time_ns - first_ns) / pace.rate))
            yield DueFrame(camera, counts[camera], due_ns, message, infos.get(camera))
            counts[camera] += 1


def _evenly(drive: Drive, hz: float, problems: list[str]) -> Iterator[DueFrame]:
    """Each camera at `hz`, whatever their rates were: so each is read by itself."""
    with contextlib.ExitStack() as stack:

        def read(camera: int) -> Iterator[DueFrame]:
            alone = replace(drive, cameras=drive.cameras[camera : camera + 1])
            frames = stack.enter_context(closing(due_frames(alone, Pace('fast'), problems)))
            for frame in frames:
                yield replace(frame, camera=camera, due_ns=round(frame.index * 1e9 / hz))

        each = (read(camera) for camera in range(len(drive.cameras)))
        yield from heapq.merge(*each, key=lambda frame: frame.due_ns)


def first_infos(drive: Drive) -> dict[int, BagMessage]:
    """Index of a camera -> the first camera_info beside its image topic, where there is one."""
    infos: dict[int, BagMessage] = {}
    with open_bag(drive.bag) as reader:
        types = {connection.topic: connection.msgtype for connection in reader.connections}
        for number, camera in enumerate(drive.cameras):
            topic = camera_info_topic(camera.topic)
            if types.get(topic) == CAMERA_INFO:
                message = next(read_messages(reader, [topic], problems=[]), None)
                infos |= {} if message is None else {number: message}
    return infos


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
        self._ahead: deque[tuple[DueFrame, int]] = deque()
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

    def take(self) -> tuple[DueFrame, int] | None:
        """The next one, and the monotonic clock when it was read; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._ahead or self._ended)
            if not self._ahead:
                if self._error is not None:
                    raise self._error
                return None
            due, read_ns = self._ahead.popleft()
            self._bytes -= len(due.message.data)
            self._changed.notify_all()
            return due, read_ns

    def _read(self) -> None:
        try:
            for due in self._frames:
                if not self._keep(due, time.monotonic_ns()):
                    break
                del due  # or the last one is held while the next is read
        except BaseException as error:  # raised again where it is taken
            self._error = error
        finally:
            self._frames.close()  # where it was opened: a bag of SQLite belongs to its thread
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _keep(self, due: DueFrame, read_ns: int) -> bool:
        """Wait for room; False when nobody wants more."""
        size = len(due.message.data)
        with self._changed:
            if self._ahead and self._bytes + size > self._most_bytes:
                self._full = True
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._stopped or not self._ahead or self._bytes + size <= self._most_bytes
            )
            if self._stopped:
                return False
            self._ahead.append((due, read_ns))
            self._bytes += size
            self._changed.notify_all()
            return True
