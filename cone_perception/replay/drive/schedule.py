"""A drive -> its pictures in the order in which they are due."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from cone_perception.bags.reader import BagMessage, open_bag, read_until_damage
from cone_perception.errors import SourceError
from cone_perception.replay.traces import Drive, Pace


@dataclass(frozen=True, slots=True)
class DueFrame:
    """One picture, and when it is to be sent.

    camera: index in the drive's cameras. index: among the pictures of that camera, from 0.
    due_ns: after the beginning of the pass; 0 at a fast pace, where the next one goes when it can.
    """

    camera: int
    index: int
    due_ns: int
    message: BagMessage


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
    counts = [0] * len(drive.cameras)
    first_ns: int | None = None
    with open_bag(drive.bag) as reader:
        for message in read_until_damage(reader, number, problems):
            camera = number[message.topic]
            due_ns = 0
            if pace.kind == 'bag' and message.time_ns:
                first_ns = message.time_ns if first_ns is None else first_ns
                due_ns = max(0, round((message.time_ns - first_ns) / pace.rate))
            yield DueFrame(camera, counts[camera], due_ns, message)
            counts[camera] += 1


def _evenly(drive: Drive, hz: float, problems: list[str]) -> Iterator[DueFrame]:
    """Each camera at `hz`, whatever their rates were: so each is read by itself."""
    with contextlib.ExitStack() as stack:

        def read(camera: int) -> Iterator[DueFrame]:
            reader = stack.enter_context(open_bag(drive.bag))
            messages = read_until_damage(reader, [drive.cameras[camera].topic], problems)
            for index, message in enumerate(messages):
                yield DueFrame(camera, index, round(index * 1e9 / hz), message)

        each = (read(camera) for camera in range(len(drive.cameras)))
        yield from heapq.merge(*each, key=lambda frame: frame.due_ns)
