"""A cone: its shape in metres, its colours, and how it is painted into the picture.

Body sizes by the Formula Student rules: 228 x 325 mm, large 285 x 505 mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cone_perception.classes import LARGE_ORANGE, ORANGE, UNKNOWN
from training.simulate.scenery.sketch import Colour, hsv_colour

Stripes = tuple[tuple[float, float], ...]
"""Lower and upper end of each stripe, as fractions of the height."""


@dataclass(frozen=True, slots=True)
class Make:
    """The shape of a cone, relative to Formula Student's.

    height, foot, tip, plate: factors on the height, on the radius of the body at its foot and at
    its tip, and on the width of the base plate. corner: where the plate's corners are cut, from
    0.42, an octagon, to 1, a square.
    """

    height: float = 1.0
    foot: float = 1.0
    tip: float = 1.0
    plate: float = 1.0
    corner: float = 0.8


FORMULA_STUDENT = Make()


@dataclass(frozen=True, slots=True)
class Cone:
    """One cone on the ground.

    position_m: (x, y) of the middle of its base plate. yaw_rad: turn about its axis.
    axis: unit vector from base to tip, (0, 0, 1) when it stands. lift_m: height of the middle of
    the base plate above the ground, more than 0 when it lies.
    class_id: what the label says. shape: class whose size it has.
    body, stripe, plate: colours, BGR 0..255 under full sun; stripe equals body when it has none.
    gloss: strength of the highlight, 0..1. lit: 1 in the sun, 0 in the shade.
    stretch: height over its make's. dirt: contrast of stains, 0..1.
    """

    position_m: tuple[float, float]
    yaw_rad: float
    axis: tuple[float, float, float]
    lift_m: float
    class_id: int
    shape: int
    body: Colour
    stripe: Colour
    plate: Colour
    stripes: Stripes
    gloss: float = 0.2
    lit: float = 1.0
    stretch: float = 1.0
    dirt: float = 0.1
    make: Make = FORMULA_STUDENT

    @property
    def height_m(self) -> float:
        height_m = 0.505 if self.shape == LARGE_ORANGE else 0.325
        return height_m * self.stretch * self.make.height

    @property
    def half_plate_m(self) -> float:
        return (0.1425 if self.shape == LARGE_ORANGE else 0.114) * self.make.plate

    @property
    def thick_m(self) -> float:
        """Thickness of the base plate."""
        return (0.03 if self.shape == LARGE_ORANGE else 0.024) * self.make.height


@dataclass(frozen=True, slots=True)
class ConePalette:
    """What all cones of one scene share; body, stripe, stripes and makes have an entry a class.

    body, stripe: colours, BGR 0..255; a stripe of the body's colour is none. dark_plate: 1 for
    black base plates. gloss: strength of the highlight, 0..1.
    """

    body: tuple[Colour, ...]
    stripe: tuple[Colour, ...]
    stripes: tuple[Stripes, ...]
    dark_plate: float
    gloss: float
    makes: tuple[Make, ...] = (FORMULA_STUDENT,) * 5


def hsv_share(hue: float, saturation: float, value: float) -> Colour:
    """Colour of a hue on OpenCV's circle of 180; saturation and value 0..1."""
    share = np.clip(np.array([saturation * 255, value * 255], np.float32), 0, 255)
    return hsv_colour(float(np.float32(hue % 180)), *share.tolist())


def make_palette(rng: np.random.Generator) -> ConePalette:
    """Colours of one set of cones, from new and vivid to faded."""
    fade = rng.uniform(0.0, 0.3) if rng.random() < 0.4 else 0.0
    orange = hsv_share(rng.uniform(-2, 12), rng.uniform(0.75, 0.98) - fade, rng.uniform(0.85, 1.0))
    body = (
        hsv_share(rng.uniform(98, 115), rng.uniform(0.72, 1.0) - fade, rng.uniform(0.5, 0.95)),
        hsv_share(rng.uniform(0, 14), rng.uniform(0.75, 0.98) - fade, rng.uniform(0.8, 1.0))
        if rng.random() < 0.4
        else orange,
        orange,
        hsv_share(rng.uniform(-8, 10), rng.uniform(0.6, 0.98) - fade, rng.uniform(0.5, 1.0)),
        hsv_share(rng.uniform(20, 30), rng.uniform(0.75, 1.0) - fade, rng.uniform(0.85, 1.0)),
    )
    if rng.random() < 0.12:
        # In low sun and overexposed, yellow turns almost white, and blue to teal.
        pale = hsv_share(rng.uniform(18, 30), rng.uniform(0.25, 0.6), 1.0)
        teal = hsv_share(rng.uniform(92, 106), rng.uniform(0.4, 0.8), rng.uniform(0.7, 1.0))
        body = (teal, *body[1:4], pale)
    white = rng.uniform(170, 255)
    tint = rng.uniform(-8, 8)
    black = rng.uniform(15, 100)
    light = (white + tint, white, white - tint)
    dark = (black * rng.uniform(0.95, 1.5), black, black * rng.uniform(0.9, 1.05))
    middle, width = rng.uniform(0.5, 0.57), rng.uniform(0.2, 0.3)
    low, high = rng.uniform(0.21, 0.32), rng.uniform(0.54, 0.64)
    wide = rng.uniform(0.14, 0.2)
    bands = ((middle - width / 2, middle + width / 2),)
    large_bands = ((low, low + wide), (high, high + wide))
    return ConePalette(
        body=body,
        stripe=(light, light, light, body[UNKNOWN], dark),
        stripes=(bands, large_bands, bands, bands, bands),
        dark_plate=float(rng.random() < 0.08),
        gloss=rng.uniform(0, 0.5),
    )


def make_cone(
    rng: np.random.Generator,
    palette: ConePalette,
    position_m: tuple[float, float],
    cone_class: int,
    fallen: float,
    stripeless: float,
) -> Cone:
    """A cone with its own dirt; without its stripe it becomes an unknown_cone.

    Of a plain make only orange cones do: a blue or yellow body leaves no doubt. A cone that lies
    keeps its class as long as its stripe is there: it is told by its colours.
    """
    worn = rng.uniform(0.82, 1.08)
    grey = rng.uniform(0, 0.25) if rng.random() < 0.25 else rng.uniform(0, 0.06)
    dirt = np.array([90.0, 105.0, 115.0]) * rng.uniform(0.6, 1.3)

    def age(colour: Colour, extra: float = 1.0) -> Colour:
        soiled = np.array(colour) * worn * (1 - grey) + dirt * grey
        return tuple(np.clip(soiled * rng.uniform(0.96, 1.04, 3) * extra, 0, 255).tolist())

    shape = label = cone_class
    plain = palette.stripe[shape] == palette.body[shape]
    if plain and shape in (ORANGE, LARGE_ORANGE):
        label = UNKNOWN
    if rng.random() < stripeless and cone_class != UNKNOWN:
        label = UNKNOWN
        shape = ORANGE if rng.random() < 0.8 else LARGE_ORANGE
    new = palette.body[UNKNOWN if label == UNKNOWN else shape]
    body = age(new)
    stripe = body if plain or label == UNKNOWN else age(palette.stripe[shape])
    make = palette.makes[shape]
    plate = age(new, rng.uniform(0.8, 1.0))
    if palette.dark_plate and rng.random() < 0.9:
        plate = (35.0, 35.0, 38.0)
    axis, lift = (0.0, 0.0, 1.0), 0.0
    if rng.random() < fallen:
        turn = rng.uniform(0, 2 * math.pi)
        rise = rng.uniform(-0.22, -0.12) * make.plate / make.height
        flat = math.cos(rise)
        axis = (math.cos(turn) * flat, math.sin(turn) * flat, math.sin(rise))
        lift = (0.1425 if shape == LARGE_ORANGE else 0.114) * 0.98 * make.plate
    return Cone(
        position_m=position_m,
        yaw_rad=rng.uniform(0, 2 * math.pi),
        axis=axis,
        lift_m=lift,
        class_id=label,
        shape=shape,
        body=body,
        stripe=stripe,
        plate=plate,
        stripes=palette.stripes[shape],
        gloss=palette.gloss,
        stretch=rng.uniform(0.97, 1.04),
        dirt=rng.uniform(0.3, 0.8) if rng.random() < 0.12 else rng.uniform(0.03, 0.3),
        make=make,
    )
