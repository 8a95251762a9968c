"""The region proposed for a drive: what it leaves out, told, drawn and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cone_perception.filters import Filters, feet_of
from cone_perception.pictures.draw import (
    WHITE,
    class_colour,
    draw_caption,
    draw_region,
    line_px,
)
from cone_perception.region.own_car import Bool, Place, at_places, find_car, region_without
from cone_perception.region.watch import Watched
from cone_perception.types import Detections, Int64, UInt8

RED = (0, 0, 255)


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A region, and what it would have left out of the source.

    region: corners as in the settings; empty where nothing stationary was found. places: on the
    car. boxes: N of all pictures, that count, of `class_names`. picture: (N,), the one that a box
    is in. stationary, left_out: (N,) bool, which boxes lie at a place, and outside of the region.
    """

    watched: Watched
    region: tuple[float, ...]
    places: list[Place]
    boxes: Detections
    class_names: tuple[str, ...]
    picture: Int64
    stationary: Bool
    left_out: Bool

    def counts(self, chosen: Bool) -> dict[str, int]:
        """Class name -> number of the chosen boxes."""
        ids = self.boxes.class_id[chosen].tolist()
        return dict(sorted(Counter(self.class_names[class_id] for class_id in ids).items()))

    def text(self, out: Path) -> str:
        """Write some lines for a person."""
        count = f'{len(self.watched.found)} pictures, {self.watched.edges.moved} of them moved on'
        if not self.region:
            nothing = 'nothing stationary was found on the car: no region is needed'
            return f'{count}\n{nothing}\nresults: {out}'
        told = ', '.join(f'{n} {name}' for name, n in self.counts(self.left_out).items())
        others = int((self.left_out & ~self.stationary).sum())
        numbers = ' '.join(f'{number:g}' for number in self.region)
        return '\n'.join(
            [
                f'{count}; {len(self.places)} places on the car have boxes again and again',
                f'boxes left out: {int(self.left_out.sum())} of {len(self.boxes)} '
                f'({told or "none"}), {others} of them not at these places',
                f'look at it: {out / "region.png"}',
                f'for the node: ros2 launch cone_perception detector.launch.py '
                f'params_file:={out / "region.yaml"}',
                f'for detect: --region {numbers}',
            ]
        )

    def record(self) -> dict[str, Any]:
        """Say the same for a program; boxes: left, top, right, bottom in pixels."""
        others = np.flatnonzero(self.left_out & ~self.stationary)
        return {
            'pictures': len(self.watched.found),
            'moved': self.watched.edges.moved,
            'failed': len(self.watched.failures),
            'failures': self.watched.failures,
            'region': self.region,
            'places': self.places,
            'boxes': self.counts(np.ones(len(self.boxes), bool)),
            'left_out': self.counts(self.left_out),
            'left_out_not_stationary': [
                {
                    'picture': self.picture[index],
                    'class': self.class_names[self.boxes.class_id[index]],
                    'score': round(float(self.boxes.score[index]), 4),
                    'xyxy_px': np.round(self.boxes.xyxy_px[index].astype(float), 2),
                }
                for index in others.tolist()
            ],
        }

    def draw(self) -> UInt8:
        """Draw the region, stationary boxes in red, and where all others stand.

        What is left out is dark; a white ring shows a box there that is not stationary.
        """
        picture: UInt8 = self.watched.picture.copy()
        line = line_px(picture)
        if self.region:
            draw_region(picture, self.region)
        for box in np.round(self.boxes.xyxy_px[self.stationary]).astype(int).tolist():
            cv2.rectangle(picture, box[:2], box[2:], RED, line)
        feet = feet_of(self.boxes.xyxy_px, 1, 1).round().astype(int).tolist()
        for index in np.flatnonzero(~self.stationary).tolist():
            colour = class_colour(self.class_names[self.boxes.class_id[index]])
            cv2.circle(picture, feet[index], 2 * line, colour, cv2.FILLED)
            if self.left_out[index]:
                cv2.circle(picture, feet[index], 6 * line, WHITE, line)
        caption = f'{int(self.left_out.sum())} of {len(self.boxes)} boxes left out'
        draw_caption(picture, caption if self.region else 'nothing stationary: no region')
        return picture


def propose(watched: Watched, class_names: tuple[str, ...]) -> Proposal:
    """Propose a region. class_names: of the model."""
    height, width = watched.picture.shape[:2]
    lengths = [len(found) for found in watched.found]
    picture = np.repeat(np.arange(len(lengths)), lengths)
    boxes = Detections.joined(watched.found)
    order = np.argsort(-boxes.score, kind='stable')
    boxes, picture = boxes[order], picture[order]
    moved = np.array(watched.moved)[picture]
    car, places = find_car(
        watched.edges.staying(),
        *(boxes.xyxy_px[moved], picture[moved], watched.edges.moved, (width, height)),
    )
    region = region_without(car) if places else ()
    boxes, picture = boxes[boxes.counts], picture[boxes.counts]
    return Proposal(
        watched=watched,
        region=region,
        places=places,
        boxes=boxes,
        class_names=class_names,
        picture=picture,
        stationary=at_places(boxes.xyxy_px, places),
        left_out=~Filters(region=region).inside(boxes.xyxy_px, width, height),
    )
