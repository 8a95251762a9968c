"""From messages to the answer of each of their pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cone_perception import pipeline
from cone_perception.answering.inbox import Arrival, Inbox, NewestFrames, StereoPairs
from cone_perception.errors import EngineLostError, ImageError, describe
from cone_perception.filters import Filters
from cone_perception.images import as_sent, grey_level, to_bgr
from cone_perception.pipeline import ConeDetector
from cone_perception.positions.locate import Locator
from cone_perception.types import CameraPicture, Detections, Frame, Positions
from cone_perception.views import Horizon

Outcome = Literal['answered', 'matched', 'dropped', 'failed']
"""matched: of a stereo pair, the eye that did not go through the network: the cones of the other
eye were looked for in it, unless it is dark. That is the right eye; the left one where it is dark.
dropped: a newer picture took its place, or the node was deactivated."""

DARK = 12.0
"""Mean grey level below which an eye is dark, if the other one is four times as bright."""

STATIONS = ('wait', *pipeline.STATIONS, 'locate', 'publish')
"""Between the moments of a published answer. wait: from arrival to the start of its work.
preprocess: message to network input. locate: finding where the cones stand. publish: building and
sending the answer, after that of its partner in a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Outcome of one picture of one camera.

    moments_ns: name -> nanoseconds of the monotonic clock, in the order of: received_ns; started_ns
    (its work began); prepared_ns, inferred_ns, decoded_ns (of ConeDetector.detect); located_ns (its
    cones were placed, or nobody places them); published_ns (the answer was sent). Those that never
    came are missing.
    reason, error: why it was not answered; of a matched one, why it was of no use. alone: it lacked
    the partner of its stereo pair. picture: None unless it was answered or matched. found: None
    unless it was answered. positions: None where nothing says where cones are;
    unplaced: the error that is to blame, empty where there was none. unsent: what could not be sent
    beside its boxes, and why.
    """

    camera: str
    arrival: Arrival
    outcome: Outcome
    moments_ns: Mapping[str, int]
    reason: str = ''
    alone: bool = False
    picture: Frame | CameraPicture | None = None
    found: Detections | None = None
    positions: Positions | None = None
    unplaced: str = ''
    unsent: str = ''
    error: Exception | None = None

    def instead(self, outcome: Outcome, reason: str, error: Exception | None = None) -> Answer:
        """Return the same picture, but dropped or failed after the network had answered it."""
        moments_ns = {name: self.moments_ns[name] for name in ('received_ns', 'started_ns')}
        alone = self.alone
        return Answer(self.camera, self.arrival, outcome, moments_ns, reason, alone, error=error)

    def times_ms(self) -> dict[str, float]:
        """Station -> milliseconds, of an answer that was published; total_ms: sum of STATIONS.

        age_ms is missing where it is not known.
        """
        times = pipeline.stations_ms(self.moments_ns, STATIONS)
        age = {} if self.arrival.age_ms is None else {'age_ms': self.arrival.age_ms}
        named = {f'{station}_ms': spent_ms for station, spent_ms in times.items()}
        return {**age, **named, 'total_ms': sum(times.values())}


class EyePicture(NamedTuple):
    """A picture that a message carried, and the camera that it is of."""

    camera: str
    arrival: Arrival
    picture: Frame | CameraPicture


@dataclass(frozen=True, slots=True)
class Answering:
    """Decodes the pictures of messages and finds the cones in them. Any thread may call it.

    horizons: camera name -> where its band lies, in the order of the topics. They are kept from
    picture to picture. side_by_side: one topic carries two cameras, the left half of its pictures
    is the first. read: sensor_msgs Image or CompressedImage of what an arrival carries, None where
    it carries that itself; raises ImageError. stereo: the cameras are the left and the right eye of
    one rig; of a pair only the left picture goes through the network. locators: camera name -> what
    places its cones; whoever made the mapping may exchange them at any time.
    """

    detector: ConeDetector
    horizons: Mapping[str, Horizon]
    side_by_side: bool = False
    read: Callable[[Any], Any] | None = None
    stereo: bool = False
    locators: Mapping[str, Locator] = field(default_factory=dict)

    def cameras_of(self, topic: int) -> tuple[str, ...]:
        """Names of the cameras whose pictures come on a topic."""
        cameras = tuple(self.horizons)
        return cameras if self.side_by_side else cameras[topic : topic + 1]

    @property
    def pairs(self) -> bool:
        """Tell whether pictures of two cameras go together."""
        return self.stereo or (self.detector.frames_per_run > 1 and len(self.horizons) == 2)

    def make_inbox(self, stereo_tolerance_ms: float) -> Inbox:
        """Make the inbox that fits: pairs where pictures of two topics go together."""
        pairs = self.pairs and not self.side_by_side
        return StereoPairs(round(stereo_tolerance_ms * 1e6)) if pairs else NewestFrames()

    def answer(self, arrivals: Sequence[Arrival], filters: Filters) -> Iterator[list[Answer]]:
        """Yield the answers of each batch, or its failures; first what cannot be decoded.

        Of a stereo pair the left picture goes through the network, or the right one where the left
        one is dark: a dark picture shows no cone, which must not be told as an empty track. The
        other picture is yielded after its answer, as matched.
        Raises EngineLostError, after the failures of all pictures that are left.
        """
        started_ns = time.monotonic_ns()
        pictures: list[EyePicture] = []
        for arrival in arrivals:
            try:
                pictures += self._decode(arrival)
            except Exception as error:  # a damaged message raises whatever its parser stumbles over
                cameras = self.cameras_of(arrival.topic)
                yield [_failure(camera, arrival, started_ns, error) for camera in cameras]
        size = self.detector.frames_per_run
        alone = self.pairs and len(pictures) == 1
        dark, why_dark = None, ''
        if self.stereo and len(pictures) == 2:
            dark, why_dark = _dark_eye(*(each.picture for each in pictures))
        if dark == 0:
            pictures.reverse()
        partners = pictures[1:] if self.stereo else []
        pictures = pictures[: len(pictures) - len(partners)]
        for first in range(0, len(pictures), size):
            batch = pictures[first : first + size]
            if first:  # until now these have waited for the batch before them
                started_ns = time.monotonic_ns()
            try:
                frames = [picture for *_, picture in batch]
                horizons = [self.horizons[camera] for camera, *_ in batch]
                found, moments = self.detector.detect(frames, filters, horizons)
            except Exception as error:  # whatever a runtime raises, the next pictures may be fine
                lost = isinstance(error, EngineLostError)
                unanswered = [*(pictures[first:] if lost else batch), *partners]
                yield [
                    _failure(camera, arrival, started_ns, error, alone)
                    for camera, arrival, _ in unanswered
                ]
                if lost:
                    raise
                continue
            moments['started_ns'] = started_ns  # decoding the message is part of preparing
            partner = partners[0].picture if partners and dark is None else None
            places = [
                self._locate(camera, cones, picture, partner)
                for (camera, _, picture), cones in zip(batch, found, strict=True)
            ]
            moments['located_ns'] = time.monotonic_ns()
            answers = []
            for (camera, arrival, picture), cones, place in zip(batch, found, places, strict=True):
                moments_ns = {'received_ns': arrival.received_ns, **moments}
                told = (moments_ns, '', alone, picture, cones, *place)
                answers.append(Answer(camera, arrival, 'answered', *told))
            for camera, arrival, picture in partners:
                moments_ns = {'received_ns': arrival.received_ns, 'started_ns': started_ns}
                answers.append(
                    Answer(camera, arrival, 'matched', moments_ns, why_dark, picture=picture)
                )
            yield answers

    def _locate(
        self,
        camera: str,
        found: Detections,
        picture: Frame | CameraPicture,
        partner: Frame | CameraPicture | None,
    ) -> tuple[Positions | None, str]:
        """Place cones, or say what went wrong: the boxes are published all the same."""
        locator = self.locators.get(camera)
        if locator is None:
            return None, ''
        eye = int(self.stereo and camera != next(iter(self.horizons)))
        try:
            return locator.locate(found, picture, partner, eye), ''
        except Exception as error:  # whatever it stumbles over
            return None, describe(error)

    def _decode(self, arrival: Arrival) -> list[EyePicture]:
        """Return the picture of each camera of the message. Raises ImageError."""
        message = self.read(arrival.message) if self.read else arrival.message
        frames: list[Frame | CameraPicture]
        if self.side_by_side:
            bgr = to_bgr(message)
            middle = bgr.shape[1] // 2
            if not middle:
                raise ImageError('a picture of one column cannot carry two cameras side by side')
            frames = [Frame(bgr[:, :middle]), Frame(bgr[:, middle:])]
        else:
            encodings = self.detector.encodings
            sent = as_sent(message, encodings) if encodings else None
            frames = [Frame(to_bgr(message)) if sent is None else sent]
        cameras = self.cameras_of(arrival.topic)
        return [
            EyePicture(camera, arrival, frame)
            for camera, frame in zip(cameras, frames, strict=True)
        ]


def _dark_eye(*pictures: Frame | CameraPicture) -> tuple[int | None, str]:
    """Index of the picture that is dark while the other one is not, and what to say; or None."""
    try:
        levels = [grey_level(picture) for picture in pictures]
    except ImageError:
        return None, ''  # told where it is answered
    dark, other = sorted(range(2), key=levels.__getitem__)
    if not (levels[dark] < DARK and levels[other] > 4 * levels[dark]):
        return None, ''
    seen = f'grey level {levels[dark]:.0f}, the other eye {levels[other]:.0f}'
    return dark, f'this eye is dark ({seen}): look at its lens, cable and exposure'


def _failure(
    camera: str, arrival: Arrival, started_ns: int, error: Exception, alone: bool = False
) -> Answer:
    moments_ns = {'received_ns': arrival.received_ns, 'started_ns': started_ns}
    return Answer(camera, arrival, 'failed', moments_ns, describe(error), alone, error=error)
