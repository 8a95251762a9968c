"""Ground truth that a bag carries: which topics it is, and which picture each message is of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cone_perception.bags.cones3d import MessageCones, cones_of
from cone_perception.bags.reader import (
    CONES,
    DETECTIONS,
    PICTURES,
    BagMessage,
    bag_types,
    detections_of,
    header_stamp_ns,
)
from cone_perception.errors import SourceError
from cone_perception.images import camera_info_topic
from cone_perception.types import Detections, Positions


class PictureStamps(NamedTuple):
    """Stamps of one picture in nanoseconds: as recorded in its header, and as it is sent."""

    header_ns: int
    sent_ns: int


@dataclass(slots=True)
class TruthTopic:
    """A topic of ground truth. asked_for: by name; otherwise what does not fit is left out.

    cones, ids: of each message, by its stamp. sent_ns: stamps of those that are of one picture,
    and as that is sent.
    """

    topic: str
    asked_for: bool
    cones: dict[int, Detections] = field(default_factory=dict)
    ids: dict[int, list[str]] = field(default_factory=dict)
    twice: set[int] = field(default_factory=set)
    guesses: bool = False
    sent_ns: dict[int, int] = field(default_factory=dict)

    def take(self, message: BagMessage, class_names: Sequence[str]) -> None:
        """Raises SourceError for a message that cannot be read, or has a class not known."""
        try:
            array = bag_types().deserialize_cdr(message.data, message.type_name)
            found = detections_of(array, class_names)
            stamp_ns = header_stamp_ns(message.data)
        except ValueError as error:
            if not self.asked_for:
                self.guesses = True
                return
            raise SourceError(f'{self.topic} is no ground truth for this model: {error}.') from None
        except Exception as error:  # a damaged message raises whatever its parser tripped over
            raise SourceError(f'{self.topic}: a message is no {DETECTIONS}: {error!r}') from error
        if stamp_ns in self.cones:
            self.twice.add(stamp_ns)
        self.cones[stamp_ns] = found
        self.ids[stamp_ns] = [detection.id for detection in array.detections]
        self.guesses |= bool(((found.score > 0) & (found.score < 1)).any())

    def match(
        self, camera: str, stamps: Sequence[PictureStamps], problems: list[str]
    ) -> dict[tuple[str, int], Detections] | None:
        """(camera, stamp as sent) -> cones of each picture whose truth is known; None without any.

        Raises SourceError when the topic was asked for and fits no picture.
        """
        if self.guesses and not self.asked_for:
            problems.append(
                f'{self.topic} is not taken for ground truth, for it has scores between 0 and 1 '
                f'or classes that the model does not know: --truth {self.topic} takes it'
            )
            return None
        headers = Counter(one.header_ns for one in stamps)
        times = Counter(one.sent_ns for one in stamps)
        sent = {  # of pictures that have both stamps for themselves
            one.header_ns: one.sent_ns
            for one in stamps
            if headers[one.header_ns] == times[one.sent_ns] == 1
        }
        self.sent_ns = {
            stamp: sent[stamp] for stamp in self.cones if stamp in sent and stamp not in self.twice
        }
        found = {(camera, sent_ns): self.cones[stamp] for stamp, sent_ns in self.sent_ns.items()}
        if not found:
            text = f'{self.topic} has no message with the stamp of one picture of camera {camera}'
            if self.asked_for:
                raise SourceError(f"{text}: its header must be the picture's own.")
            problems.append(f'{text}: it is not taken for ground truth')
            return None
        if len(found) < len(stamps):
            problems.append(
                f'{len(stamps) - len(found)} of {len(stamps)} pictures of camera {camera} '
                f'have no ground truth of their own in {self.topic}: they are not judged'
            )
        return found


@dataclass(slots=True)
class PlacesTopic:
    """A topic of where the cones stand, of the id that the truth has for them.

    cones: of each message, by its stamp. problem: why it is of no use; '' where nothing is wrong.
    """

    topic: str
    cones: dict[int, MessageCones] = field(default_factory=dict)
    problem: str = ''

    def take(self, message: BagMessage) -> None:
        """Read a message; one that cannot be read makes the topic useless."""
        try:
            array = bag_types().deserialize_cdr(message.data, message.type_name)
            self.cones[header_stamp_ns(message.data)] = cones_of(array)
        except Exception as error:  # a damaged message raises whatever its parser tripped over
            self.problem = self.problem or f'{self.topic}: positions are not judged: {error}'

    def match(self, camera: str, truth: TruthTopic) -> dict[tuple[str, int], Positions]:
        """(camera, stamp as sent) -> where the cones of the picture's truth stand."""
        return {
            (camera, sent_ns): self.cones[stamp].of(truth.ids[stamp])
            for stamp, sent_ns in truth.sent_ns.items()
            if stamp in self.cones and not self.problem
        }


def places_topic(types: Mapping[str, str], truth_topic: str) -> str | None:
    """The topic that tells in the car's frame where the cones of a topic of truth stand.

    It is called ground_truth_3d, beside the truth of the only camera, or above the cameras': there
    the topics beside them are told in the optical frames.
    """
    space = truth_topic.rpartition('/')[0]
    for above in (space.rpartition('/')[0], space):
        if types.get(topic := f'{above}/ground_truth_3d') == CONES:
            return topic
    return None


def choose_truth(
    bag: Path,
    types: Mapping[str, str],
    cameras: Sequence[str],
    asked_for: Sequence[str],
    in_order: bool,
    problems: list[str],
) -> dict[str, TruthTopic]:
    """Image topic -> its topic of ground truth; cameras without one are left out.

    asked_for: as many as cameras, then in their order if `in_order`; otherwise each must lie in
    the namespace of a camera. Without: the only Detection2DArray topic in a camera's namespace, or
    the only one of the bag where it has one camera. `problems` says when that remains unclear.
    Raises SourceError for a topic asked for that is not there or belongs to no camera.
    """
    there = sorted(topic for topic, kind in types.items() if kind == DETECTIONS)
    spaces = {topic: _namespace(topic) for topic in cameras}
    if asked_for:
        for topic in asked_for:
            if topic not in there:
                kind = f' is of type {types[topic]}' if topic in types else ' is not there'
                raise SourceError(
                    f'{bag}: --truth {topic}{kind}; topics of {DETECTIONS}: '
                    f'{", ".join(there) or "none"}.'
                )
        if len(set(asked_for)) < len(asked_for):
            raise SourceError(f'--truth names {", ".join(asked_for)}: each camera has its own.')
        if len(asked_for) == len(cameras) and (in_order or len(cameras) == 1):
            return {c: TruthTopic(topic, True) for c, topic in zip(cameras, asked_for, strict=True)}
        chosen: dict[str, TruthTopic] = {}
        for topic in asked_for:
            fits = [c for c, space in spaces.items() if space == topic.rpartition('/')[0]]
            if len(fits) != 1 or fits[0] in chosen:
                raise SourceError(
                    f'--truth {topic}: which camera it is of is not clear '
                    f'({", ".join(cameras)}): give --topic and --truth in the same order.'
                )
            chosen[fits[0]] = TruthTopic(topic, True)
        return chosen
    chosen = {}
    for camera, space in spaces.items():
        inside = [topic for topic in there if topic.rpartition('/')[0] == space]
        if len(inside) == 1:
            chosen[camera] = TruthTopic(inside[0], False)
    all_spaces = {_namespace(t) for t, kind in types.items() if kind in PICTURES}
    if not chosen and len(there) == len(all_spaces) == len(cameras) == 1:
        return {cameras[0]: TruthTopic(there[0], False)}
    if there and len(chosen) < len(cameras):
        without = ', '.join(camera for camera in cameras if camera not in chosen)
        problems.append(
            f'which of {", ".join(there)} is the ground truth of {without} is not clear, so it is '
            'not judged: name it with --truth'
        )
    return chosen


def _namespace(image_topic: str) -> str:
    return camera_info_topic(image_topic).rpartition('/')[0]
