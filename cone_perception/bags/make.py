"""Pictures of a folder or a video -> frames with the stamps of a drive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from cone_perception.errors import SourceError
from cone_perception.pictures.sources import Source, Unreadable
from cone_perception.types import Frame

FIRST_STAMP_NS = 1_760_000_000 * 10**9
"""The first stamp of every bag made: a plausible time. Zero would mean unset."""


def stamp_frames(
    source: Source, hz: float | None, frame_id: str, note_failure: Callable[[Unreadable], None]
) -> Iterator[Frame]:
    """Each readable picture; an unreadable one keeps its place in time and goes to `note_failure`.

    hz: pictures per second; None keeps a video's own times. Raises SourceError where it has none.
    """
    previous_ns = -1
    for index, frame in enumerate(source.frames):
        if isinstance(frame, Unreadable):
            note_failure(frame)
            continue
        stamp_ns = frame.stamp_ns if hz is None else round(index * 1e9 / hz)
        if stamp_ns <= previous_ns:
            raise SourceError(
                f'{frame.source}: frame {index} is at {stamp_ns / 1e9:.3f} s, not after the one '
                f'before at {previous_ns / 1e9:.3f} s. Say how many there are per second: --hz.'
            )
        previous_ns = stamp_ns
        yield replace(frame, stamp_ns=FIRST_STAMP_NS + stamp_ns, frame_id=frame_id)
