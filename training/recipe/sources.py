"""The data sets that have a name here: where they come from, and how many pictures they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cone_perception.dataset.layout import SPLITS
from cone_perception.errors import DataError


@dataclass(frozen=True, slots=True)
class RoboflowVersion:
    """One version of a Roboflow project. images: pictures per split, from the strategy's table."""

    workspace: str
    project: str
    version: int
    images: Mapping[str, int]


SOURCES: Mapping[str, RoboflowVersion] = {
    'cone-detector': RoboflowVersion(
        'fsbdriverless', 'cone-detector-zruok', 1, {'train': 19975, 'val': 1591, 'test': 1159}
    ),
    'FSOCO-12': RoboflowVersion(
        'fmdv', 'fsoco-kxq3s', 12, {'train': 7120, 'val': 1968, 'test': 689}
    ),
}


def parse_counts(words: Sequence[str]) -> dict[str, int]:
    """`train=7120 val=1968` -> pictures per split. Raises DataError for anything else."""
    counts = {}
    for word in words:
        split, sign, number = word.partition('=')
        if split not in SPLITS or not sign or not number.isdecimal():
            raise DataError(f'{word!r} is not a count: write SPLIT=PICTURES, such as test=689')
        counts[split] = int(number)
    return counts
