"""How many frames can afford a second look, measured before the first frame comes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from cone_perception.engines.check import measure_rounds
from cone_perception.filters import Filters
from cone_perception.pipeline import ConeDetector
from cone_perception.preprocess import PAD_VALUE
from cone_perception.settings import DetectorSettings
from cone_perception.types import Frame
from cone_perception.views import NOWHERE, bands_of

ROUNDS = 7
"""Pairs of grey frames that are timed, one with a second look and one without; their median counts.
The first pair does not."""
MOST_EVERY = 15
"""A second look at fewer frames, two a second at 30 Hz, is not worth its cost."""


def ration_views(
    detector: ConeDetector, settings: DetectorSettings
) -> tuple[DetectorSettings, str]:
    """Keep to `max_latency_ms` by a greater `far_every`, or by whole pictures only.

    Sets the detector's views; it must be warm, and nothing else may run. Returns the settings to
    go on with, and what was measured and decided: empty where there was nothing to decide.
    """
    most_ms = settings.max_latency_ms
    if not most_ms or not bands_of(detector.views):
        return settings, ''
    twice_ms, once_ms = measure_looks(detector)
    measured = f'a frame takes {twice_ms:.1f} ms with the second look and {once_ms:.1f} ms without'
    every = affordable(twice_ms, once_ms, most_ms, settings.far_every)
    if every is None:
        detector.views = 'whole'
        late = ', although that takes longer too' if once_ms > most_ms else ''
        return settings, (
            f'{measured}, but may take {most_ms:g} ms (max_latency_ms): whole pictures only{late}'
        )
    mean_ms = once_ms + (twice_ms - once_ms) / every
    often = 'each frame gets it' if every == 1 else f'one frame of {every} gets it'
    told = f'{measured}: {often}, {mean_ms:.1f} ms in the mean of {most_ms:g} ms (max_latency_ms)'
    return replace(settings, far_every=every), told


def affordable(twice_ms: float, once_ms: float, most_ms: float, least: int = 1) -> int | None:
    """Least N, from `least` on, with which a second look at each Nth frame keeps the mean.

    None where no N up to MOST_EVERY, or `least` if that is more, does.
    """
    extra_ms, left_ms = max(0.0, twice_ms - once_ms), most_ms - once_ms
    if left_ms < 0 or extra_ms > left_ms * max(MOST_EVERY, least):
        return None
    return max(least, math.ceil(extra_ms / left_ms)) if extra_ms else least


def measure_looks(detector: ConeDetector) -> tuple[float, float]:
    """Milliseconds that a grey frame takes, or as many as go into one run: twice looked at, once.

    The frame has twice the network's size, so that every view has its pictures.
    """
    height_px, width_px = 2 * detector.card.height_px, 2 * detector.card.width_px
    grey = Frame(np.full((height_px, width_px, 3), PAD_VALUE, np.uint8))
    frames = [grey] * detector.frames_per_run
    rows_px = [NOWHERE * height_px] * len(frames)
    looks = [
        partial(detector.look, frames, Filters(), rows, once)
        for rows, once in ((rows_px, ()), ((), range(len(frames))))
    ]
    spent_ms = measure_rounds(looks, ROUNDS - 1, warm_up=1)
    twice_ms, once_ms = np.median(spent_ms, axis=0).tolist()
    return twice_ms, once_ms
