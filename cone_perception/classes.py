"""The five classes of cones, and their names as data sets spell them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

BLUE, LARGE_ORANGE, ORANGE, UNKNOWN, YELLOW = range(5)
CLASS_NAMES = ('blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'yellow_cone')

ALIASES: Mapping[str, tuple[str, ...]] = {
    'blue_cone': ('blue', 'blue_cones', 'cone_blue'),
    'large_orange_cone': (
        'large_orange',
        'large_orange_cones',
        'orange_large',
        'orange_large_cone',
        'big_orange',
        'big_orange_cone',
        'orange_big',
        'orange_big_cone',
        'cone_large_orange',
        'cone_big_orange',
        'cone_orange_big',
    ),
    'orange_cone': (
        'orange',
        'orange_cones',
        'small_orange',
        'small_orange_cone',
        'orange_small',
        'orange_small_cone',
        'cone_orange',
    ),
    'unknown_cone': ('unknown', 'unknown_cones', 'other_cone', 'cone_unknown', 'cone_other'),
    'yellow_cone': ('yellow', 'yellow_cones', 'cone_yellow'),
}
"""Class -> other names for it, in lower case with `_` between words (`Blue Cone` is blue_cone)."""

_CLASS_OF = {
    name: class_id
    for class_id, project in enumerate(CLASS_NAMES)
    for name in (project, *ALIASES[project])
}


def map_classes(names: Sequence[str]) -> dict[int, int]:
    """Class index in the data set -> class index of the project; a name not in the table is absent.

    Case and the signs between words do not matter: `Blue Cone`, `blue-cone` and `blue_cone` agree.
    """
    spelt = [re.sub('[^a-z0-9]+', '_', name.lower()).strip('_') for name in names]
    return {index: _CLASS_OF[name] for index, name in enumerate(spelt) if name in _CLASS_OF}
