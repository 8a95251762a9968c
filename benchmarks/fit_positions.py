"""Fits the constants of cone_perception/positions to rendered drives, for positions.py --fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from renders import DrivePair
from scipy.optimize import minimize

from cone_perception.accuracy.matching import match
from cone_perception.classes import UNKNOWN
from cone_perception.positions import foot, height, locate
from cone_perception.positions.locate import Locator
from cone_perception.positions.rig import Rig
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Float64

TOPICS = ('/left/image', '/right/image')
MOST = 4.5
"""Normalised errors are cut off there: what lies farther is no matter of the deviation."""

Columns = dict[str, Float64]


def columns_of(pairs: Iterable[tuple[DrivePair, Detections]], names: Sequence[str]) -> Columns:
    """Of each cone found and matched: what its box and its match say, and where it stands."""
    parts: dict[str, list[Any]] = {}
    locator: Locator | None = None
    for pair, found in pairs:
        if locator is None:
            rig = Rig.of(pair.left.info, pair.right.info, TOPICS, DetectorSettings(), None)
            locator = Locator(rig, names)
        left, right = pair.frames
        boxes = locator.boxes(found, rig.left)
        seen, _ = locator.match(boxes, left, right)
        _, cone = match(found.xyxy_px, found.class_id, pair.truth.xyxy_px, pair.truth.class_id)
        known = cone >= 0
        foot_m = pair.left.feet_m('left')[cone[known]]
        box = boxes.rectified_px
        rows = {
            'height': boxes.height_px,
            'size': boxes.height_m,
            'usual': boxes.usual_width_px,
            'stout': boxes.stoutness,
            'crossed': boxes.crossed,
            'hidden': boxes.hidden,
            'aside': boxes.aside,
            'upright': ~(boxes.lies | boxes.cut.any(axis=1)),
            'sure': boxes.kind != UNKNOWN,
            'score': boxes.score,
            'middle': (box[:, 0] + box[:, 2]) / 2,
            'disparity': np.where(locate.trusted(seen), seen.disparity_px, np.nan),
            'noise': seen.sigma_px,
            'apart': seen.apart_px,
        }
        truth = {'depth': foot_m[:, 2], 'column': rig.left.project(foot_m)[:, 0]}
        for name, values in {**{k: v[known] for k, v in rows.items()}, **truth}.items():
            parts.setdefault(name, []).append(values)
    assert locator
    every = {name: np.concatenate(values).astype(np.float64) for name, values in parts.items()}
    return {**every, 'focal': np.full(1, rig.left.fx_px), 'baseline': np.full(1, rig.baseline_m)}


def fit_deviation(error: Float64, parts: Sequence[Float64], start: Sequence[float]) -> Float64:
    """Factors of the parts, whose squares add up to the variance of the error: most likely ones."""
    squares = np.square(np.stack(parts))

    def cost(logarithms: Float64) -> float:
        variance = np.exp(2 * logarithms) @ squares
        ratio = np.minimum(np.abs(error) / np.sqrt(variance), MOST)
        return float(np.mean(np.log(variance) + ratio**2))

    options = {'maxiter': 6000, 'maxfev': 6000}
    found = minimize(cost, np.log(start), method='Nelder-Mead', options=options)
    return np.asarray(np.exp(found.x), np.float64)


def fit_constants(pairs: Iterable[tuple[DrivePair, Detections]], names: Sequence[str]) -> None:
    """Print the constants of height.py, locate.py and foot.py that suit these drives."""
    of = columns_of(pairs, names)
    one = np.ones(len(of['depth']))
    focal, baseline = float(of['focal'][0]), float(of['baseline'][0])
    depth = of['depth']
    clear = (of['upright'] > 0) & (of['sure'] > 0)
    alone = clear & (of['crossed'] == 0)
    knots = height.KNOTS_PX
    ends = np.sqrt(knots[1:] * knots[:-1])
    tried = []
    for aside_px in np.arange(0, 1.6, 0.1):
        high = np.maximum(of['height'] - aside_px * of['aside'], 1)
        gap = np.log(depth * high / (focal * of['size']))
        nearest = np.searchsorted(ends, high)
        bias = [float(np.median(gap[alone & (nearest == k)])) for k in range(len(knots))]
        error = gap - np.interp(high, knots, bias)
        tried.append((float(np.median(np.abs(error[alone]))), aside_px, bias, high, error))
    _, aside_px, bias, high, error = min(tried, key=lambda each: each[0])
    print(f'FITTED_PX = {focal:.1f}')
    print(f'ASIDE_PX, BIAS = {aside_px:.1f},', np.round(bias, 3).tolist())
    slim = np.maximum(-of['stout'] - height.SLACK, 0)
    parts = [part[clear] for part in (one, 1 / high, of['crossed'], slim)]
    start = (height.SHARE, height.PIXELS, height.CROSSED_SHARE, height.SLIM_SHARE)
    found = fit_deviation(error[clear], parts, start)
    print('SHARE, PIXELS, CROSSED_SHARE, SLIM_SHARE =', found.round(3).tolist())

    matched = np.isfinite(of['disparity']) & (of['upright'] > 0)
    seen_m = focal * baseline / np.where(matched, of['disparity'], 1)
    behind = (depth - seen_m) / of['size']
    near = matched & (depth < 15)
    slope, flat = np.polyfit(1 / depth[near], np.clip(behind[near], -0.3, 0.4), 1)
    print(f'BEHIND, BEHIND_NEAR_M = {flat:.3f}, {slope:.3f}')
    behind_m = of['size'] * (locate.BEHIND + locate.BEHIND_NEAR_M / depth)
    miss_px = of['disparity'] - focal * baseline / (depth - behind_m)
    names_of = ('noise', 'apart', 'disparity', 'crossed')
    parts = [one[matched], *(of[name][matched] for name in names_of)]
    start = (locate.FLOOR_PX, locate.NOISE, locate.APART, locate.SHARE, locate.CROSSED_PX)
    found = fit_deviation(miss_px[matched], parts, start)
    print('FLOOR_PX, NOISE, APART, SHARE, CROSSED_PX =', found.round(4).tolist())

    upright = of['upright'] > 0
    odd = np.maximum(np.abs(of['stout']) - height.SLACK, 0) * of['usual']
    unsure = np.maximum(foot.SURE_SCORE - of['score'], 0) * high
    parts = [part[upright] for part in (one, high**2, of['hidden'] * high, odd, unsure)]
    start = (
        *(foot.SIDE_PX, 1 / foot.SIDE_SLOPE_PX**2, foot.SIDE_HIDDEN),
        *(foot.SIDE_SHAPE, foot.UNSURE),
    )
    side_px, bend, hidden, shape, doubt = fit_deviation(
        (of['middle'] - of['column'])[upright], parts, start
    ).tolist()
    print(f'SIDE_PX, SIDE_SLOPE_PX, SIDE_HIDDEN = {side_px:.3f}, {bend**-0.5:.1f}, {hidden:.3f}')
    print(f'SIDE_SHAPE, UNSURE = {shape:.3f}, {doubt:.3f}')
