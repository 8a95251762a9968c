"""Filters of the cones found: thresholds per class, classes, region, box sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt

from cone_perception.errors import SettingsError
from cone_perception.model_card import ModelCard
from cone_perception.types import Detections, Float32, ViewName


@dataclass(frozen=True, slots=True)
class Filters:
    """Limits that may change while the detector runs.

    thresholds: least score per class name, 0..1; classes not named keep the model card's.
    classes: names to keep; empty keeps all. region: corners x, y, x, y, ... of a polygon in
    fractions of the picture; a cone counts when the middle of its box's bottom edge lies inside;
    empty keeps all. min_height_px, max_height_px: in source pixels; max 0 means no limit.
    lower: a view's (classes,) float32 thresholds -> those of the search, which are lower; its boxes
    then tell from which score they count (Detections.least). None: only boxes that count.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    region: tuple[float, ...] = ()
    min_height_px: float = 0.0
    max_height_px: float = 0.0
    lower: Callable[[Float32], Float32] | None = None

    def __post_init__(self) -> None:
        for name, value in self.thresholds.items():
            if not 0 <= value <= 1:
                raise SettingsError(f'the threshold of {name} must lie in 0..1, got {value}')
        if self.region and (len(self.region) < 6 or len(self.region) % 2):
            raise SettingsError(
                'region needs x, y of three corners or more, in fractions of the picture, '
                f'got {len(self.region)} numbers'
            )
        if any(not 0 <= value <= 1 for value in self.region):
            raise SettingsError(
                f'region is in fractions of the picture, 0..1, got {list(self.region)}'
            )
        if self.max_height_px and self.max_height_px < self.min_height_px:
            raise SettingsError(
                f'max_height_px {self.max_height_px} is less than min_height_px '
                f'{self.min_height_px}: no box could pass'
            )

    def check_classes(self, card: ModelCard) -> None:
        """Raise SettingsError for a class name that the model does not know."""
        unknown = sorted({*self.classes, *self.thresholds} - set(card.class_names))
        if unknown:
            raise SettingsError(
                f'the model {card.name} has no class {", ".join(unknown)}; '
                f'it knows {", ".join(card.class_names)}'
            )

    def thresholds_for(self, card: ModelCard, view: ViewName = 'whole') -> Float32:
        """(classes,) float32: least score of each class of the card in a view.

        One that is told here holds for every view.
        """
        least = {**card.thresholds, **card.view_thresholds.get(view, {}), **self.thresholds}
        return np.array([least[name] for name in card.class_names], np.float32)

    def thresholds_by_view(self, card: ModelCard) -> dict[ViewName, Float32]:
        """The same of every view."""
        return {view: self.thresholds_for(card, view) for view in get_args(ViewName)}

    def apply(
        self, found: Detections, card: ModelCard, width_px: int, height_px: int
    ) -> Detections:
        """Keep the detections, in source pixels of a picture of this size, that count."""
        keep = found.height_px >= self.min_height_px
        if self.max_height_px:
            keep &= found.height_px <= self.max_height_px
        if self.classes:
            wanted = [card.class_names.index(name) for name in self.classes]
            keep &= np.isin(found.class_id, wanted)
        return found[keep & self.inside(found.xyxy_px, width_px, height_px)]

    def inside(self, xyxy_px: Float32, width_px: int, height_px: int) -> npt.NDArray[np.bool_]:
        """(N,) bool: which of (N, 4) boxes in a picture of this size stand in the region."""
        if not self.region:
            return np.ones(len(xyxy_px), bool)
        corners = np.array(self.region, np.float32).reshape(-1, 2)
        feet = feet_of(xyxy_px, width_px, height_px).tolist()
        return np.array([cv2.pointPolygonTest(corners, foot, False) >= 0 for foot in feet], bool)


def feet_of(xyxy_px: Float32, width_px: int, height_px: int) -> Float32:
    """(N, 2) float32: where the cones of (N, 4) boxes stand, in fractions of the picture."""
    feet = (xyxy_px[:, [0, 3]] + xyxy_px[:, [2, 3]]) / 2
    return np.asarray(feet / np.array([width_px, height_px], np.float32), np.float32)
