"""Cones of other makes and in odd colours: what a data set shows beside Formula Student's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cone_perception.classes import BLUE, LARGE_ORANGE, ORANGE, YELLOW
from training.simulate.cone import ConePalette, Make, hsv_share
from training.simulate.scenery.sketch import Colour

SHAPES = ('slim', 'tall', 'wide', 'near')


def vary_palette(rng: np.random.Generator, palette: ConePalette, share: float) -> ConePalette:
    """The palette as it is, or another make, other stripes or other colours.

    share: of the scenes with another make, 0..1; with 0 every palette stays as it is.
    """
    if rng.random() < share:
        palette = _other_make(rng, palette)
    if rng.random() < 1.4 * share:
        palette = _other_colours(rng, palette)
    if rng.random() < 1.6 * share:
        palette = _other_large(rng, palette)
    return palette


def _make(rng: np.random.Generator) -> Make:
    kind = SHAPES[int(rng.choice(len(SHAPES), p=[0.3, 0.3, 0.2, 0.2]))]
    # Height in metres, and width of the foot over the height.
    tall, ratio = {
        'slim': (rng.uniform(0.3, 0.5), rng.uniform(0.28, 0.42)),
        'tall': (rng.uniform(0.45, 0.75), rng.uniform(0.28, 0.45)),
        'wide': (rng.uniform(0.2, 0.45), rng.uniform(0.55, 0.75)),
        'near': (rng.uniform(0.28, 0.38), rng.uniform(0.42, 0.58)),
    }[kind]
    foot = tall * ratio / 0.166
    plate = foot * 0.166 / 0.228 * rng.uniform(1.2, 1.65)
    corner = float(rng.choice([0.8, 0.97, 0.42], p=[0.4, 0.3, 0.3]))
    return Make(tall / 0.325, foot, foot * rng.uniform(0.6, 1.5), plate, corner)


def _other_make(rng: np.random.Generator, palette: ConePalette) -> ConePalette:
    small = _make(rng)
    tall, girth = rng.uniform(0.9, 1.45), rng.uniform(0.75, 1.15)
    plate = girth * rng.uniform(0.9, 1.15)
    large = Make(tall, girth, girth * rng.uniform(0.7, 1.4), plate, small.corner)
    stripe, stripes = palette.stripe, list(palette.stripes)
    kind = rng.random()
    if kind < 0.35:  # plain, orange ones at times
        plain = range(len(stripes)) if rng.random() < 0.5 else (BLUE, YELLOW)
        stripe = tuple(palette.body[k] if k in plain else stripe[k] for k in range(len(stripes)))
    elif kind < 0.6:  # two thin ones; two on an orange cone would make it a large one
        thin, low = rng.uniform(0.06, 0.13), rng.uniform(0.3, 0.45)
        high = low + thin + rng.uniform(0.08, 0.18)
        stripes[BLUE] = stripes[YELLOW] = ((low, low + thin), (high, high + thin))
    else:
        wide = rng.uniform(0.1, 0.5)
        low = rng.uniform(0.2, 0.88 - wide)
        stripes[BLUE] = stripes[ORANGE] = stripes[YELLOW] = ((low, low + wide),)
    makes = tuple(large if shape == LARGE_ORANGE else small for shape in range(len(stripes)))
    return replace(palette, stripe=stripe, stripes=tuple(stripes), makes=makes)


def _other_colours(rng: np.random.Generator, palette: ConePalette) -> ConePalette:
    """Blue from cyan to navy, yellow to mustard, both greyer; stripes less far from the body."""
    body, stripe = list(palette.body), list(palette.stripe)
    kind = rng.random()
    if kind < 0.3:
        body[BLUE] = hsv_share(rng.uniform(92, 104), rng.uniform(0.5, 0.9), rng.uniform(0.7, 1))
    elif kind < 0.65:
        body[BLUE] = hsv_share(rng.uniform(105, 118), rng.uniform(0.6, 1), rng.uniform(0.2, 0.5))
    else:
        body[BLUE] = hsv_share(rng.uniform(98, 116), rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.8))
    if rng.random() < 0.6:
        body[YELLOW] = hsv_share(rng.uniform(20, 30), rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.85))
    for shape in (BLUE, YELLOW):
        grey = rng.uniform(120, 220) if shape == BLUE else rng.uniform(30, 110)
        if rng.random() < 0.5:
            stripe[shape] = (grey, grey, grey)
    return _recoloured(palette, body, stripe)


def _other_large(rng: np.random.Generator, palette: ConePalette) -> ConePalette:
    """Large cones that differ from the small orange ones: faded, or in other stripes."""
    body, stripes = list(palette.body), list(palette.stripes)
    if rng.random() < 0.6:
        vivid = rng.uniform(0.4, 0.98)
        body[LARGE_ORANGE] = hsv_share(rng.uniform(-3, 14), vivid, rng.uniform(0.75, 1))
    kind = rng.random()
    if kind < 0.12:  # one broad one
        low = rng.uniform(0.3, 0.42)
        stripes[LARGE_ORANGE] = ((low, low + rng.uniform(0.3, 0.4)),)
    elif kind < 0.5:
        thin, low, high = rng.uniform(0.06, 0.22), rng.uniform(0.2, 0.34), rng.uniform(0.58, 0.68)
        stripes[LARGE_ORANGE] = ((low, low + thin), (high, high + thin))
    palette = replace(palette, stripes=tuple(stripes))
    return _recoloured(palette, body, list(palette.stripe))


def _recoloured(palette: ConePalette, body: list[Colour], stripe: list[Colour]) -> ConePalette:
    """The palette in other colours; what had no stripe has none."""
    for shape, (old, before) in enumerate(zip(palette.body, palette.stripe, strict=True)):
        if old == before:
            stripe[shape] = body[shape]
    return replace(palette, body=tuple(body), stripe=tuple(stripe))
