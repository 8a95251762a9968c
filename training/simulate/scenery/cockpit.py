"""The own cockpit as a camera on the roll hoop sees it: steering wheel, switches, cables, hands."""

from __future__ import annotations

import math

import cv2
import numpy as np

from training.simulate.scenery.ego import EgoSketch
from training.simulate.scenery.sketch import Bytes, Colour, Point, hsv_colour, random_colour, scaled

HUES = ((0, 0.45), (9, 0.25), (26, 0.12), (108, 0.12), (60, 0.06))
"""Hues of switches, most of them red or orange like cones, and how often each is taken."""


def make_cockpit(rng: np.random.Generator, width: int, height: int) -> Bytes:
    """BGRA of the lower end of a picture of width x height px."""
    tall = int(height * rng.uniform(0.35, 0.6))
    body = random_colour(rng, 0.3) if rng.random() < 0.4 else (rng.uniform(15, 50),) * 3
    car = _Cockpit(EgoSketch(rng, width, tall, body, width * rng.uniform(0.44, 0.56)))
    car.draw_front()
    car.draw_hoop()
    car.draw_cables()
    car.draw_steering()
    return car.ego.finish()


def _vivid(rng: np.random.Generator) -> Colour:
    hue = rng.choice([hue for hue, _ in HUES], p=[share for _, share in HUES])
    return hsv_colour(hue, rng.uniform(150, 255), rng.uniform(110, 255))


class _Cockpit:
    """The cockpit being drawn. unit: width of the picture, varied by the lens; lengths follow."""

    def __init__(self, ego: EgoSketch) -> None:
        self.ego, self.rng, self.sketch = ego, ego.rng, ego.sketch
        self.middle, self.tall = ego.middle, ego.tall
        self.unit = ego.width * ego.rng.uniform(0.85, 1.3)
        self.carbon = (ego.rng.uniform(12, 40),) * 3

    def text(self, words: str, place: Point, size_px: float, colour: Colour) -> None:
        thick = max(round(size_px / 9), 1)
        spot = (round(place[0]), round(place[1]))
        font = cv2.FONT_HERSHEY_SIMPLEX
        ink = (*colour, 255.0)
        cv2.putText(self.sketch.bgra, words, spot, font, size_px / 22, ink, thick, cv2.LINE_AA)

    def switch(self, place: Point, size_px: float) -> None:
        """Draw one switch, lamp, plug or sticker: round, square, a triangle or a mushroom."""
        rng, colour = self.rng, _vivid(self.rng)
        x, y = place
        kind = rng.random()
        if kind < 0.5:
            self.sketch.ellipse(place, (1.4 * size_px, 1.4 * size_px), (25, 25, 28), soft=True)
            self.sketch.ellipse(place, (size_px, size_px), colour, soft=True)
            if rng.random() < 0.5:
                shine, spot = 0.35 * size_px, (x - 0.3 * size_px, y - 0.3 * size_px)
                self.sketch.ellipse(spot, (shine, shine), scaled(colour, 1, 90), soft=True)
        elif kind < 0.75:
            w, h = size_px * rng.uniform(0.5, 1.5), size_px * rng.uniform(0.5, 1.8)
            self.sketch.box(x - w, y - h, x + w, y + h, colour)
            if rng.random() < 0.4:
                self.sketch.box(x - w, y - h / 3, x + w, y + h / 4, random_colour(rng, 0.1))
        elif kind < 0.9:
            w, h = size_px * rng.uniform(0.8, 1.6), size_px * rng.uniform(1, 2.4)
            sign = rng.choice([-1, 1], p=[0.3, 0.7])
            self.corners([(x - w, y + sign * h), (x, y - sign * h), (x + w, y + sign * h)], colour)
        else:
            stem = [(x - 0.5, y), (x + 0.5, y), (x + 0.6, y + 2), (x - 0.6, y + 2)]
            foot = [(x + size_px * (px - x), y + size_px * (py - y)) for px, py in stem]
            self.corners(foot, (200, 200, 205))
            self.sketch.ellipse(place, (1.3 * size_px, 0.8 * size_px), colour, soft=True)

    def corners(self, points: list[Point], colour: Colour) -> None:
        """Fill a polygon of pixels."""
        self.ego.polygon([(x, y / self.tall) for x, y in points], colour)

    def draw_front(self) -> None:
        """Draw wheels, arms and the nose with its number and stickers."""
        rng, unit, middle, tall = self.rng, self.unit, self.middle, self.tall
        rubber = (rng.uniform(20, 60),) * 3
        reach, half, y = (
            rng.uniform(0.19, 0.3),
            unit * rng.uniform(0.04, 0.08),
            rng.uniform(0.4, 0.6),
        )
        high = unit * rng.uniform(0.05, 0.09)
        for side in (-1, 1):
            x, row = middle + side * unit * reach, tall * y
            for arm in (-0.3, 0.2):
                inner = (middle + side * unit * 0.05, row + (arm - 0.3) * high)
                self.sketch.line((x, row + arm * high), inner, (28, 28, 30), 4, soft=True)
            self.sketch.box(x - half, row - 0.7 * high, x + half, row + 0.7 * high, rubber)
            for end in (-0.7, 0.7):
                self.sketch.ellipse((x, row + end * high), (half, 0.4 * high), rubber, soft=True)
            if rng.random() < 0.3:  # a red or yellow line around the tyre
                edge = x - side * half * 0.8
                ends = (edge, row - 0.7 * high), (edge, row + 0.7 * high)
                self.sketch.line(*ends, _vivid(rng), max(int(unit / 400), 1), soft=True)
            if rng.random() < 0.5:  # an end plate
                self.switch((x - side * half, row - high), unit * 0.006)
        self.ego.taper(unit * rng.uniform(0.02, 0.05), 0.02, unit * 0.17, self.ego.body)
        self.text(str(int(rng.integers(1, 999))), (middle - unit * 0.03, tall * 0.3),
                  unit * rng.uniform(0.015, 0.04), (235, 235, 235))  # fmt: skip
        x, size = middle - unit * rng.uniform(0.02, 0.05), unit * rng.uniform(0.008, 0.018)
        for k in range(int(rng.integers(0, 8))):
            row = tall * 0.4 + rng.normal(0, 0.1) * size
            self.sketch.box(x + k * size, row, x + (k + 0.8) * size, row + size, _vivid(rng))

    def draw_hoop(self) -> None:
        """Draw the front hoop, the dark room under it, the display and a row of knobs."""
        rng, unit, middle, tall = self.rng, self.unit, self.middle, self.tall
        base, size = (middle, tall * 1.08), (unit * rng.uniform(0.14, 0.2), tall * 0.52)
        rim = int(unit * rng.uniform(0.018, 0.035)) + 1
        self.sketch.ellipse(base, size, (14, 14, 16), soft=True)
        self.sketch.ellipse(base, size, self.carbon, rim, first_deg=180, soft=True)
        if rng.random() < 0.3:  # padding with a coloured edge
            inner = (size[0] - rim, size[1] - rim)
            self.sketch.ellipse(
                base, inner, _vivid(rng), max(rim // 6, 1), first_deg=180, soft=True
            )
        row, half = tall * 0.58, unit * rng.uniform(0.015, 0.035)
        shine = rng.uniform(20, 140)
        self.sketch.box(middle - half, row - rim / 3, middle + half, row + rim / 3, (shine,) * 3)
        self.text('88:88', (middle - 0.7 * half, row + rim / 4), half / 2, _vivid(rng))
        for side in (-1, 1):
            for k in range(int(rng.integers(0, 7))):
                x = middle + side * (half + unit * 0.012 * (k + 1))
                knob = unit * rng.uniform(0.002, 0.005)
                if rng.random() < 0.4:
                    self.switch((x, row + k * 0.004 * unit), knob)
                else:
                    self.sketch.ellipse((x, row + k * 0.004 * unit), (knob, knob), (190,) * 3)

    def draw_cables(self) -> None:
        """Draw cables and plugs, orange ones among them, and big switches left and right."""
        rng, unit, middle, tall = self.rng, self.unit, self.middle, self.tall
        for _ in range(int(rng.integers(1, 9))):
            start = np.array(
                [middle + rng.uniform(-0.14, 0.14) * unit, tall * rng.uniform(0.72, 1)]
            )
            walk = start + np.cumsum(rng.normal(0, 0.009 * unit, (8, 2)), axis=0)
            colour = _vivid(rng) if rng.random() < 0.55 else (rng.uniform(30, 160),) * 3
            line = np.round(walk).astype(np.int32)
            thick = int(rng.integers(1, max(int(unit / 200), 3)))
            cv2.polylines(self.sketch.bgra, [line], False, (*colour, 255.0), thick, cv2.LINE_AA)
        for side in (-1, 1):
            for _ in range(int(rng.integers(0, 4))):
                x = middle + side * unit * rng.uniform(0.09, 0.15)
                self.switch((x, tall * rng.uniform(0.75, 0.97)), unit * rng.uniform(0.003, 0.012))

    def draw_steering(self) -> None:
        """Draw the steering wheel, turned, its switches, and sometimes gloved hands."""
        rng, unit = self.rng, self.unit
        centre = np.array(
            [self.middle + rng.normal(0, 0.006) * unit, self.tall * rng.uniform(0.78, 1)]
        )
        half, high = unit * rng.uniform(0.045, 0.085), unit * rng.uniform(0.025, 0.055)
        turn = rng.normal(0, 0.5)
        frame = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])

        def place(x: float, y: float) -> Point:
            at = centre + np.array([x * half, y * high]) @ frame
            return float(at[0]), float(at[1])

        grip, turn_deg = scaled(self.carbon, rng.uniform(0.8, 2.0)), math.degrees(turn)
        if rng.random() < 0.5:  # a flat plate between two grips
            ends = [(-1, -0.8), (-0.6, -1), (0.6, -1), (1, -0.8), (0.9, 0.9), (-0.9, 0.9)]
            self.corners([place(x, y) for x, y in ends], grip)
            for side in (-1, 1):
                self.sketch.ellipse(
                    place(side, 0), (0.22 * half, high), grip, -1, turn_deg, soft=True
                )
        else:  # a ring with spokes
            thick = int(0.2 * high) + 2
            self.sketch.ellipse(
                tuple(centre.tolist()), (half, high), grip, thick, turn_deg, soft=True
            )
            for x, y in ((-1.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
                self.sketch.line(place(0, 0), place(x, y), grip, thick, soft=True)
            boss = (0.5 * half, 0.6 * high)
            self.sketch.ellipse(tuple(centre.tolist()), boss, grip, -1, turn_deg, soft=True)
        if rng.random() < 0.4:
            screen = [(-0.35, -0.6), (0.35, -0.6), (0.35, 0), (-0.35, 0)]
            self.corners([place(x, y) for x, y in screen], random_colour(rng, 0.2))
        if rng.random() < 0.6:
            words = ''.join(chr(int(c)) for c in rng.integers(97, 123, int(rng.integers(4, 9))))
            self.text(words, place(-0.5, -0.1), 0.4 * high, _vivid(rng))
        size = unit * rng.uniform(0.0025, 0.007)
        for _ in range(int(rng.integers(2, 13))):
            self.switch(place(rng.uniform(-0.85, 0.85), rng.uniform(-0.75, 0.75)), size)
        if rng.random() < 0.4:
            glove = _vivid(rng) if rng.random() < 0.4 else (rng.uniform(15, 230),) * 3
            for side in (-1, 1):
                x, y = place(side * 1.05, rng.uniform(-0.2, 0.3))
                elbow = (x + side * 2.2 * half, float(self.tall))
                self.sketch.line(
                    (x, y), elbow, scaled(self.carbon, 1.3), int(0.5 * half), soft=True
                )
                fist = (0.34 * half, 0.3 * half)
                self.sketch.ellipse((x, y), fist, glove, -1, turn_deg, soft=True)
                for finger in (-0.2, 0.0, 0.2):
                    tip = (x - side * 0.25 * half, y + finger * half)
                    self.sketch.ellipse(
                        tip, (0.15 * half, 0.07 * half), scaled(glove, 0.8), soft=True
                    )
