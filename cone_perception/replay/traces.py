"""The types of a replay: its drive, its pace, and the fate of each picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from cone_perception.answering import answer
from cone_perception.types import Detections, Positions

Fate = Literal['answered', 'matched', 'transport', 'dropped', 'failed', 'return', 'unknown']
"""answered: its detections came back. matched: of a stereo pair, the other eye went through the
network; this one served its positions, or was dark, as `reason` says. transport: the node never had
it. dropped: pushed out of the node by a newer one. failed: the node says why. return: published,
but never came back. unknown: no answer, and the node does not tell of each frame."""

FATES: tuple[Fate, ...] = get_args(Fate)
LOST = FATES[2:]
"""All but answered and matched."""

MOMENTS = (
    'sent_ns',
    'received_ns',
    'started_ns',
    'prepared_ns',
    'inferred_ns',
    'decoded_ns',
    'located_ns',
    'published_ns',
    'returned_ns',
)
"""In this order. sent: before publish() is called. received: in the node's callback. started: the
worker takes it. prepared, inferred, decoded: the network's input is ready, its output, the cones.
located: where they stand is known. published: after publish(). returned: in the monitor's
callback."""

STATIONS = ('transport_in', *answer.STATIONS, 'transport_out')
"""Each from one of MOMENTS to the next."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameTrace:
    """One picture of a replay, and what was made of it.

    camera: name, see Drive. index: among the pictures of this camera in the bag, from 0.
    stamp_ns: of its header as it was sent. Moments: of the machine's monotonic clock; None where it
    never came there, or where nobody tells. reason: why it failed. found: None without an answer.
    positions: of what was found, in the car's frame; None where none came. partner: of the right
    eye of a rig, in which the cones of the left one are found again.
    """

    camera: str
    index: int
    stamp_ns: int
    fate: Fate
    sent_ns: int
    received_ns: int | None = None
    started_ns: int | None = None
    prepared_ns: int | None = None
    inferred_ns: int | None = None
    decoded_ns: int | None = None
    located_ns: int | None = None
    published_ns: int | None = None
    returned_ns: int | None = None
    reason: str = ''
    found: Detections | None = None
    positions: Positions | None = None
    partner: bool = False

    @property
    def band_px(self) -> float | None:
        """Row around which the second look lay; None where there was none."""
        return None if self.found is None else self.found.band_px

    @property
    def lost(self) -> bool:
        """Tell whether nothing came of it."""
        return self.fate in LOST

    @property
    def wanted(self) -> bool:
        """Tell whether it was to be answered: a partner is only where the left eye is not."""
        return self.fate == 'answered' or not (self.partner or self.fate == 'matched')

    @property
    def answered_ns(self) -> int | None:
        """The monitor's receipt of the answer; in the pipeline, which has none, the positions."""
        if self.fate != 'answered':
            return None
        return self.returned_ns if self.returned_ns is not None else self.located_ns

    @property
    def latency_ms(self) -> float | None:
        """The time from sending to the answer."""
        answered_ns = self.answered_ns
        return None if answered_ns is None else (answered_ns - self.sent_ns) / 1e6

    @property
    def own_cost_ms(self) -> float | None:
        """The node's own time: from receipt to publishing, but for the network's run."""
        inside = (self.received_ns, self.prepared_ns, self.inferred_ns, self.published_ns)
        if any(moment is None for moment in inside):
            return None
        received_ns, prepared_ns, inferred_ns, published_ns = (moment or 0 for moment in inside)
        return (published_ns - received_ns - (inferred_ns - prepared_ns)) / 1e6

    def stations_ms(self) -> Iterator[tuple[str, float]]:
        """Name and milliseconds of each station whose two moments are known."""
        for name, (start, end) in zip(STATIONS, pairwise(MOMENTS), strict=True):
            started_ns, ended_ns = getattr(self, start), getattr(self, end)
            if started_ns is not None and ended_ns is not None:
                yield name, (ended_ns - started_ns) / 1e6


def span_ns(frames: Sequence[FrameTrace]) -> tuple[int, int]:
    """Tell when the first of the frames was sent, and the last thing that happened to one."""
    ends_ns = [getattr(frame, name) or 0 for frame in frames for name in MOMENTS]
    return min(frame.sent_ns for frame in frames), max(ends_ns)


@dataclass(frozen=True, slots=True)
class Camera:
    """One image topic of a drive.

    name: short, unique in the drive. truth_topic: of Detection2DArray; None without ground truth.
    """

    name: str
    topic: str
    compressed: bool
    truth_topic: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Drive:
    """The drive that is replayed.

    truth: (camera name, stamp_ns) -> cones, also for pictures without any; None: not known.
    places: the same keys -> where these cones stand, in the car's frame, row by row; None: not
    known. problems: what is wrong with the bag, one sentence each; it can be replayed all the same.
    """

    bag: Path
    sha256: str
    cameras: tuple[Camera, ...]
    frames: int
    duration_s: float
    storage: str
    truth: Mapping[tuple[str, int], Detections] | None = None
    places: Mapping[tuple[str, int], Positions] | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """The times at which pictures are sent.

    bag: at its recorded time, divided by `rate`. hz: each camera at `hz`, evenly.
    fast: the next one as soon as fewer than `in_flight` of its camera wait for their answers; one
    fewer where cameras take turns. With one in flight none is dropped; with two, one is where a
    busy machine holds up the thread that would have taken it.
    """

    kind: Literal['bag', 'hz', 'fast'] = 'bag'
    rate: float = 1.0
    hz: float = 0.0
    in_flight: int = 2


@dataclass(frozen=True, slots=True)
class LoadSample:
    """The load of one process, or of the machine's GPU, at one moment.

    who: 'node', 'player', 'monitor', 'replay' (the pipeline without ROS), 'gpu'.
    time_ns: of the monotonic clock. values: 'cpu_cores' (1.0: one core busy since the last sample),
    'memory_mb' (resident, MB of 10**6 bytes), 'threads'; for the gpu 'load_percent', 'memory_mb',
    'clock_mhz', 'temperature_c', 'power_w'.
    """

    who: str
    time_ns: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One replay of a drive.

    frames: those that were sent, in that order. health: the node's last diagnostics, part -> key ->
    value. interrupted: somebody ended it early; what was seen is all there. process_failed: the
    node died, or one of the processes did not end well; problems tell it.
    """

    pace: Pace
    frames: Sequence[FrameTrace]
    load: Sequence[LoadSample] = ()
    health: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    interrupted: bool = False
    process_failed: bool = False
