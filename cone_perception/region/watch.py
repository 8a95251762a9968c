"""A drive searched for what stays at its place: edges of the picture, and boxes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cone_perception.detect import search, tell_failure
from cone_perception.errors import SourceError
from cone_perception.pictures.sources import Source, Unreadable
from cone_perception.pipeline import ConeDetector
from cone_perception.region.own_car import StayingEdges
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, UInt8
from cone_perception.views import Horizon

LOWER = 0.6
"""Thresholds of the search, as a share of those that count: a box flickers, its place does not."""
FEWEST = 10
"""Least number of pictures, and of those that differ."""
STILL = 0.75
"""Share of the picture that stays at its place, above which the car is parked."""


@dataclass(slots=True)
class Watched:
    """What a search of a source with lower thresholds found.

    edges: what stays at its place. found: per picture. moved: per picture, whether it differs from
    the one before. picture: the one with the most boxes, to draw on. failures: without an answer.
    """

    edges: StayingEdges = field(default_factory=StayingEdges)
    found: list[Detections] = field(default_factory=list)
    moved: list[bool] = field(default_factory=list)
    picture: UInt8 = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    failures: list[Unreadable] = field(default_factory=list)

    def add(self, bgr: UInt8, found: Detections) -> None:
        """Take in a picture, of the size of those before. Raises SourceError."""
        if self.found and bgr.shape != self.picture.shape:
            raise SourceError(
                f'pictures of {self.picture.shape[1]}x{self.picture.shape[0]} and of '
                f'{bgr.shape[1]}x{bgr.shape[0]}: a region is for one camera that is fixed to the '
                'car. Give the pictures of one.'
            )
        if not self.found or len(found) > max(map(len, self.found)):
            self.picture = bgr
        self.found.append(found)
        self.moved.append(self.edges.add(bgr))

    def check(self) -> None:
        """Raise SourceError where it shows no drive, or no box."""
        count = len(self.found)
        if count < FEWEST:
            raise SourceError(
                f'{count} pictures are too few to see what stays at its place: give {FEWEST} or '
                'more, better hundreds.'
            )
        if not any(map(len, self.found)):
            raise SourceError(
                f'the network found nothing in {count} pictures, so there is nothing to leave out. '
                'If there are cones in it, try lower --thresholds or another --model.'
            )
        if self.edges.moved < FEWEST or self.edges.staying().mean() > STILL:
            raise SourceError(
                f'the picture hardly moves ({self.edges.moved} of {count} pictures differ from '
                'the one before): with a parked car everything stays at its place. Give a drive.'
            )


def watch(source: Source, detector: ConeDetector, settings: DetectorSettings) -> Watched:
    """Search a source with lower thresholds. Raises SourceError where that shows no drive."""
    lower = replace(settings.filters, lower=lambda least: least * np.float32(LOWER))
    watched = Watched()
    for picture in search(source, detector, lower, Horizon.of(settings)):
        if isinstance(picture, Unreadable):
            watched.failures.append(picture)
            tell_failure(picture)
        else:
            watched.add(picture[0].bgr, picture[1])
    watched.check()
    return watched
