"""The part of the own car that the camera sees, laid over the lower end of the picture."""

from __future__ import annotations

import cv2
import numpy as np

from training.simulate.scenery.sketch import Bytes, Colour, Point, Sketch, random_colour, scaled


def make_ego(rng: np.random.Generator, width: int, height: int) -> Bytes | None:
    """BGRA of the lower end of a picture of width x height px, or None: nothing is seen."""
    style = int(rng.choice(7, p=[0.3, 0.2, 0.16, 0.07, 0.08, 0.05, 0.14]))
    if style == 0:
        return None
    tall = int(height * (rng.uniform(0.35, 0.55) if style == 6 else rng.uniform(0.08, 0.42)))
    body = random_colour(rng, 0.3) if rng.random() < 0.5 else (rng.uniform(15, 50),) * 3
    car = EgoSketch(rng, width, tall, body, width * rng.uniform(0.42, 0.58))
    if style in (1, 2):
        car.draw_nose()
    if style in (2, 5):
        car.draw_wheels()
    if style == 3:  # a side
        rim = width * (0.0 if rng.random() < 0.5 else 1.0)
        reach = width * rng.uniform(0.1, 0.3) * (1 if rim == 0 else -1)
        car.polygon([(rim, 0), (rim + reach, 0.5), (rim + reach * 0.8, 1), (rim, 1)], body)
    if style == 4:  # a wedge
        half = width * rng.uniform(0.1, 0.5)
        tone = random_colour(rng, 0.3)
        car.polygon([(car.middle - half, 1), (car.middle, 0.3), (car.middle + half, 1)], tone)
    if style == 6:  # as seen from the roll hoop
        car.draw_cockpit()
    if rng.random() < 0.3:  # halo, antenna, cables
        x = int(width * rng.random())
        lean = int(rng.normal(0, 0.1) * width)
        thick = int(rng.integers(1, max(width // 60, 2)))
        car.sketch.line((x, 0), (x + lean, tall), (25, 25, 25), thick, soft=True)
    return car.finish()


class EgoSketch:
    """The own car being drawn. middle: column of its axis. Rows of polygons: 0 top to 1 bottom."""

    def __init__(
        self, rng: np.random.Generator, width: int, tall: int, body: Colour, middle: float
    ) -> None:
        self.rng, self.width, self.tall = rng, width, tall
        self.body, self.middle = body, middle
        self.sketch = Sketch(width, tall)

    def finish(self) -> Bytes:
        """The picture, with light falling on it from above."""
        rng = self.rng
        fade = np.linspace(
            rng.uniform(0.9, 1.5), rng.uniform(0.5, 1.0), self.tall, dtype=np.float32
        )
        self.sketch.shade(fade[:, None])
        return self.sketch.mottled(rng, 0.07)

    def polygon(self, points: list[Point], colour: Colour) -> None:
        corners = np.round(np.array(points) * (1, self.tall)).astype(np.int32)
        cv2.fillPoly(self.sketch.bgra, [corners], (*colour, 255.0), cv2.LINE_AA)

    def taper(self, top: float, upper: float, base: float, colour: Colour) -> None:
        """Draw a trapezium around the axis, from half width `top` at `upper` to `base` at 1."""
        x = self.middle
        self.polygon([(x - top, upper), (x + top, upper), (x + base, 1), (x - base, 1)], colour)

    def draw_nose(self) -> None:
        rng, width, middle = self.rng, self.width, self.middle
        top, base = width * rng.uniform(0.03, 0.1), width * rng.uniform(0.15, 0.33)
        self.taper(top, 0.05, base, self.body)
        self.taper(0.7 * top, 0.1, 0.5 * base, scaled(self.body, 1.6, 20))
        for _ in range(int(rng.integers(0, 7))):  # stickers
            x, y = middle + rng.uniform(-0.5, 0.5) * base, rng.uniform(0.4, 0.9)
            w, h = rng.uniform(0.01, 0.05) * width, rng.uniform(0.03, 0.15)
            self.polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], random_colour(rng, 0.6))

    def draw_wheels(self) -> None:
        rng, width, middle = self.rng, self.width, self.middle
        for side in (-1, 1):
            x = middle + side * width * rng.uniform(0.28, 0.42)
            w = width * rng.uniform(0.05, 0.1)
            y = rng.uniform(0.1, 0.5)
            rubber = (rng.uniform(15, 45),) * 3
            upper = [(x - w, y + 0.1), (x - 0.7 * w, y), (x + 0.7 * w, y), (x + w, y + 0.1)]
            self.polygon([*upper, (x + w, 1), (x - w, 1)], rubber)
            hub = x - side * w
            self.polygon([(hub, 0.6), (middle, 0.75), (middle, 0.8), (hub, 0.68)], rubber)

    def draw_cockpit(self) -> None:
        """Draw wheels, arms, cockpit, and what lies in it."""
        rng, width, middle, tall, sketch = self.rng, self.width, self.middle, self.tall, self.sketch
        for side in (-1, 1):
            x, w = middle + side * width * rng.uniform(0.24, 0.34), width * rng.uniform(0.05, 0.09)
            y, high = int(tall * 0.55), int(tall * rng.uniform(0.3, 0.45))
            sketch.ellipse((x, y), (w, high), (38, 38, 40), soft=True)
            hub = (int(w * 0.4), int(high * 0.7))
            sketch.ellipse((x - side * w * 0.4, y), hub, (22, 22, 24), soft=True)
            for arm in (0.45, 0.6):
                end = (middle, tall * (arm - 0.1))
                sketch.line((x, tall * arm), end, (25, 25, 25), 3, soft=True)
        nose, base = width * rng.uniform(0.04, 0.08), width * rng.uniform(0.16, 0.28)
        self.taper(nose, 0.0, base, self.body)
        self.taper(1.2 * nose, 0.35, 0.8 * base, scaled(self.body, 0.5))
        steering = (int(width * 0.07), int(tall * 0.18))
        sketch.ellipse((middle, tall * 0.75), steering, (20, 20, 20), int(width / 110) + 1)
        for _ in range(int(rng.integers(2, 12))):
            spot = (middle + rng.uniform(-0.7, 0.7) * base, tall * rng.uniform(0.3, 1))
            size = (width * rng.uniform(0.003, 0.02), tall * rng.uniform(0.01, 0.08))
            turn_deg = rng.uniform(0, 180)
            sketch.ellipse(spot, size, random_colour(rng, 0.6), -1, turn_deg, soft=True)
