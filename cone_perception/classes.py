"""The five classes of cones, and their names as data sets spell them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

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
