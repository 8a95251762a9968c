"""The classes of cones: their names, their sizes, and how likely a detection is one of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cone_perception.types import Detections, Float32

BLUE, LARGE_ORANGE, ORANGE, UNKNOWN, YELLOW = range(5)
CLASS_NAMES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')

CONE_SIZES_M = (
    (0.228, 0.228, 0.325),
    (0.285, 0.285, 0.505),
    (0.228, 0.228, 0.325),
    (0.228, 0.228, 0.325),
    (0.228, 0.228, 0.325),
)
"""Width, depth and height of a cone of each class, by the rules of Formula Student."""

CLASS_WORDS: Mapping[frozenset[str], int] = {
    frozenset({'blue'}): BLUE,
    frozenset({'large', 'orange'}): LARGE_ORANGE,
    frozenset({'big', 'orange'}): LARGE_ORANGE,
    frozenset({'orange'}): ORANGE,
    frozenset({'small', 'orange'}): ORANGE,
    frozenset({'unknown'}): UNKNOWN,
    frozenset({'other', 'cone'}): UNKNOWN,
    frozenset({'yellow'}): YELLOW,
}
"""Words of a class's name, in any order, `cone` with or without it -> class of the project."""


def check_class_names(names: Sequence[str]) -> None:
    """Raise ValueError for a name that is empty, or no single line that can be printed.

    Names are written into lists of one a line. A colon is fine: it is quoted where it must be.
    """
    for name in names:
        if not name.strip() or not name.isprintable():
            raise ValueError(f'{name!r} is no name of a class: give a text of one line')


def map_classes(names: Sequence[str]) -> dict[int, int]:
    """Class index in the data set -> class index of the project; a name not in the table is absent.

    Case and the signs between words do not matter: `Blue Cone`, `blue-cone` and `blue_cone` agree.
    """
    mapping = {}
    for index, name in enumerate(names):
        words = frozenset(re.findall('[a-z0-9]+', name.lower()))
        found = CLASS_WORDS.get(words, CLASS_WORDS.get(words - {'cone', 'cones'}))
        if found is not None:
            mapping[index] = found
    return mapping


def project_classes(names: Sequence[str]) -> list[int]:
    """Class of the project for each name of a model; UNKNOWN for one that is not in the table."""
    known = map_classes(names)
    return [known.get(index, UNKNOWN) for index in range(len(names))]


def scores_of(found: Detections, class_count: int) -> Float32:
    """(N, classes) float32: the score of every class; 0 of those that the network does not tell."""
    if found.class_score is not None:
        return found.class_score
    scores = np.zeros((len(found), class_count), np.float32)
    scores[np.arange(len(found)), found.class_id] = found.score
    return scores


@dataclass(frozen=True, slots=True)
class ClassCalibration:
    """Scores -> probabilities, of detections over their thresholds (docs/decisions/colour.md).

    A detection is a cone with the probability sigmoid(slope * z + offset), where z is the logit of
    its best score. If it is one, it is of class c with softmax(z_c / temperature), where z_c is the
    logit of that class's score. fitted: free JSON, on what, and how well.
    """

    slope: float
    offset: float
    temperature: float
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ('slope', 'temperature'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} must be above 0, got {getattr(self, name)!r}')

    def probabilities(self, found: Detections, class_count: int) -> Float32:
        """(N, classes) float32: each detection is a cone of each class; the rest to 1: of none."""
        score = np.clip(scores_of(found, class_count).astype(np.float64), 1e-6, 1 - 1e-6)
        logit = np.log(score / (1 - score))
        best = logit.max(axis=1, keepdims=True)
        share = np.exp((logit - best) / self.temperature)
        share /= share.sum(axis=1, keepdims=True)
        cone = 1 / (1 + np.exp(-self.slope * best - self.offset))
        return np.asarray(cone * share, np.float32)
