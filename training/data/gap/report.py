"""Figures of two data sets, their distances, and what these suggest, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cone_perception.classes import CLASS_NAMES
from cone_perception.pictures.draw import short_name

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Kind = Literal['number', 'class']

HALVINGS = 40
"""Random halves of a set whose distances say how much it varies in itself."""
EXAMPLES = 8

ADVICE: Mapping[str, str] = {
    'box height': 'more `scale` augmentation, crops, or another `imgsz` in stage 1 so that cones '
    'are as tall as in the target set',
    'box shape': 'look at the labels: boxes that are drawn looser or tighter cost mAP50-95 first',
    'position across': 'more `translate` augmentation',
    'position down': 'another camera height or pitch: more `translate` and `perspective`',
    'boxes per picture': '`mosaic` evens this out; look for unlabelled far cones too',
    'classes per picture': '`mosaic` evens this out',
    'classes': 'classes that one set lacks are learned from the other alone: judge them one by one',
    'brightness': 'more `hsv_v` augmentation in stage 1',
    'contrast': 'more `hsv_v` augmentation in stage 1',
    'saturation': 'more `hsv_s` augmentation in stage 1',
    'sharpness': 'another camera, size or compression: train and judge at one `imgsz`',
    'frame': 'a frame is part of the pictures of one set only, and a real camera has none: cut it '
    'off, or expect the model to rely on it',
    'picture shape': 'the letterbox takes another share of the network input: prefer crops',
    'embedding': 'the network sees another domain: fine-tune all layers with a warm-up, and expect '
    'the first epochs to lose before they gain',
}
COLOUR_ADVICE = 'more `hsv_h` and `hsv_s` augmentation in stage 1'


@dataclass(frozen=True, slots=True, eq=False)
class SetFigure:
    """One thing that is measured in a set.

    values: (M, D) float64, per picture or per box. picture: (M,) the picture it belongs to.
    kind: `class`: values are class indices, (M, 1).
    """

    name: str
    unit: str
    values: Float64
    picture: Int64
    kind: Kind = 'number'


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A data set as measured. paths: its pictures. block: (N,) which pictures stay together."""

    name: str
    paths: tuple[Path, ...]
    block: Int64
    figures: Mapping[str, SetFigure]


@dataclass(frozen=True, slots=True, eq=False)
class SetDifference:
    """One figure of both sets.

    distance: Wasserstein-1 in standard deviations of both sets together (several components: root
    of the sum of squares); for classes the Jensen-Shannon distance, 0..1 (Lin 1991); for the
    embedding the maximum mean discrepancy (Gretton et al. 2012). within: the greatest distance of
    HALVINGS random halves of a set, in the set that varies more.
    median_a, median_b: of the first component; NaN for classes and the embedding.
    """

    name: str
    unit: str
    distance: float
    within: float
    median_a: float
    median_b: float

    @property
    def ratio(self) -> float:
        return self.distance / max(self.within, 1e-9)

    @property
    def notable(self) -> bool:
        """More than chance and a set's own variety explain."""
        return self.distance > self.within


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Pictures as the backbone sees them.

    a, b: (N, C) float64, standardised. index_a, index_b: which pictures of the samples.
    if_same: 95 % of the discrepancies that shuffled blocks of both sets give are at most this.
    told_apart: share of pictures whose nearest one outside their block is of their own set;
    0.5 when the sets cannot be told apart. to_a: (N,) of B's pictures, mean distance to the five
    nearest of A.
    """

    a: Float64
    b: Float64
    index_a: Int64
    index_b: Int64
    if_same: float
    told_apart: float
    to_a: Float64


@dataclass(frozen=True, slots=True, eq=False)
class GapReport:
    """The gap. differences: largest first. embedding: None if not asked for."""

    a: Sample
    b: Sample
    differences: tuple[SetDifference, ...]
    embedding: Embedding | None
    weights: str = ''
    examples: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """Say what differs most, and what that suggests."""
        notable = [entry for entry in self.differences if entry.notable]
        if not notable:
            return [
                f'Nothing sets {self.a.name} and {self.b.name} apart more than halves of one of '
                'them differ.',
                *self._missing_classes(),
            ]
        said = [_sentence(entry, self.a.name, self.b.name) for entry in notable[:6]]
        rest = [entry.name for entry in notable[6:]]
        if rest:
            said.append(f'Also different, but less: {", ".join(rest)}.')
        alike = [entry.name for entry in self.differences if not entry.notable]
        if alike:
            said.append(f'Not more different than halves of one set: {", ".join(alike)}.')
        said += self._missing_classes()
        if self.embedding is not None:
            said.append(
                f"To the network's backbone the nearest other picture belongs to the same set in "
                f'{100 * self.embedding.told_apart:.0f} % of the pictures (50 %: no difference).'
            )
        return said

    def _missing_classes(self) -> Iterator[str]:
        """Classes that one set has and the other does not."""
        for here, there in ((self.a, self.b), (self.b, self.a)):
            counts, others = _class_counts(here), _class_counts(there)
            for name, count, other in zip(CLASS_NAMES, counts, others, strict=True):
                if count and not other:
                    yield (
                        f'{short_name(name).capitalize()}: {count} boxes in {here.name}, none in '
                        f'{there.name}. Suggests: {ADVICE["classes"]}.'
                    )

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, for programs."""
        found = self.embedding
        return {
            'a': {'name': self.a.name, 'pictures': len(self.a.paths)},
            'b': {'name': self.b.name, 'pictures': len(self.b.paths)},
            'differences': [
                {**asdict(entry), 'notable': entry.notable} for entry in self.differences
            ],
            'embedding': found
            and {
                'weights': self.weights,
                'pictures': [len(found.a), len(found.b)],
                'if_same': found.if_same,
                'told_apart': found.told_apart,
            },
            'sentences': self.sentences(),
        }


def _class_counts(sample: Sample) -> list[int]:
    if 'classes' not in sample.figures:
        return [0] * len(CLASS_NAMES)
    class_id = sample.figures['classes'].values[:, 0].astype(np.int64)
    return [int((class_id == index).sum()) for index in range(len(CLASS_NAMES))]


def _sentence(entry: SetDifference, a: str, b: str) -> str:
    advice = ADVICE.get(entry.name, COLOUR_ADVICE)
    how = f'{entry.distance:.2f} apart, halves of one set at most {entry.within:.2f}'
    if np.isnan(entry.median_a):
        return f'{entry.name.capitalize()}: {how}. Suggests: {advice}.'
    unit = f' {entry.unit}' if entry.unit else ''
    return (
        f'{entry.name.capitalize()}: median {entry.median_a:.3g} in {a}, {entry.median_b:.3g} in '
        f'{b}{unit} ({how}). Suggests: {advice}.'
    )
