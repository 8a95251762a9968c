"""A message that arrived, and the outcome of its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from cone_perception import pipeline
from cone_perception.types import CameraPicture, Detections, Frame

Outcome = Literal['answered', 'dropped', 'failed']
"""dropped: a newer picture took its place, or the node was deactivated."""

STATIONS = ('wait', *pipeline.STATIONS, 'publish')
"""Between the moments of a published answer. wait: from arrival to the start of its work.
preprocess: message to network input. publish: building and sending the answer, after that of its
partner in a batch."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message that waits for its answer.

    topic: index of the topic that it came on. stamp_ns: of the picture. received_ns: of the
    monotonic clock. age_ms: from its stamp to its arrival; None where stamp and clock do not
    belong together.
    """

    topic: int
    stamp_ns: int
    message: Any
    received_ns: int = 0
    age_ms: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Outcome of one picture of one camera.

    moments_ns: name -> nanoseconds of the monotonic clock, in the order of: received_ns; started_ns
    (its work began); prepared_ns, inferred_ns, decoded_ns (see StationTimes); published_ns (the
    answer was sent). Those that never came are missing.
    reason, error: why it was not answered. alone: it lacked the partner of its stereo pair.
    picture, found: None unless it was answered.
    """

    camera: str
    arrival: Arrival
    outcome: Outcome
    moments_ns: Mapping[str, int]
    reason: str = ''
    alone: bool = False
    picture: Frame | CameraPicture | None = None
    found: Detections | None = None
    error: Exception | None = None

    def instead(self, outcome: Outcome, reason: str, error: Exception | None = None) -> Answer:
        """Return the same picture, but dropped or failed after the network had answered it."""
        moments_ns = {name: self.moments_ns[name] for name in ('received_ns', 'started_ns')}
        return Answer(
            self.camera, self.arrival, outcome, moments_ns, reason, self.alone, error=error
        )

    def times_ms(self) -> dict[str, float]:
        """Station -> milliseconds, of an answer that was published; total_ms: sum of STATIONS.

        age_ms is missing where it is not known.
        """
        moments = list(self.moments_ns.values())
        times = {
            f'{station}_ms': (after - before) / 1e6
            for station, (before, after) in zip(STATIONS, pairwise(moments), strict=True)
        }
        age = {} if self.arrival.age_ms is None else {'age_ms': self.arrival.age_ms}
        return {**age, **times, 'total_ms': (moments[-1] - moments[0]) / 1e6}
