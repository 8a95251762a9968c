"""Find each box of the left eye again in the right one: disparities to hundredths of a pixel.

The patch of a box is compared with the rows of the rectified right picture by weighted normalised
correlation: coarsely in grey at whole pixels, then in colour between them. The weights are a cone's
shape, so that the background, which has another disparity, counts little.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from cone_perception.positions.camera import CameraModel
from cone_perception.types import Float32, Float64, Int64, UInt8

ROWS, COLUMNS = 24, 22
"""Of a left patch. A cone larger than it is made smaller by a whole number."""
CONE_ROWS, CONE_COLUMNS = 20.0, 18.0
"""What a box may take of a patch."""
TAPS = 7
"""Whole-pixel places of the right patch between which the peak is interpolated."""
STEPS = np.linspace(-2, 2, 65)
GROW_PX = 1.0
"""By how much the cone's shape is widened to each side: its edges say most."""
LEAST_CONTRAST = 2.0
"""Standard deviation of a patch, grey levels, from which it can be matched."""
APART_PX = 0.15
"""Halves of a patch that are farther apart show two cones. In pixels of the patch."""


@dataclass(frozen=True, slots=True, eq=False)
class Disparities:
    """Row i belongs to box i. NaN in all where there is none.

    disparity_px: (N,) column left minus column right, in rectified pixels. sigma_px: (N,) what the
    difference of the patches leaves of it, were it noise. correlation: (N,) of the patches there,
    at most 1. apart_px: (N,) by how much the patches' upper and lower half disagree. row_px: (N,)
    row right minus row left, -1 to 1, which rectified pictures do not differ in.
    """

    disparity_px: Float64
    sigma_px: Float64
    correlation: Float64
    apart_px: Float64
    row_px: Float64

    @classmethod
    def none(cls, count: int) -> Disparities:
        """Nothing was matched."""
        return cls(**{each.name: np.full(count, np.nan) for each in fields(cls)})

    def spread(self, places: npt.NDArray[np.bool_]) -> Disparities:
        """The same with a row for each of `places`, a mask that is true for the rows of these."""
        every = Disparities.none(len(places))
        for each in fields(self):
            getattr(every, each.name)[places] = getattr(self, each.name)
        return every


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patches of N cones in both eyes, each made smaller by `scale`.

    left: (N, ROWS, COLUMNS, 3) uint8. weight: (N, ROWS, COLUMNS). right: (N, ROWS, COLUMNS + S - 1,
    3): the same rows of the right eye, whose column j, taken as the first, is a disparity of
    first - j, in pixels of the patch. least: (N,) disparity below which a match is none, likewise.
    """

    left: UInt8
    weight: Float32
    right: UInt8
    first: Int64
    least: Float64
    scale: Int64


def cut(
    eyes: tuple[CameraModel, CameraModel],
    pictures: tuple[UInt8, UInt8],
    boxes_px: Float64,
    low_px: Float64,
    high_px: Float64,
    covered: npt.NDArray[np.bool_] | None = None,
) -> Patches:
    """Patches of boxes of the rectified left eye, pixel centres at whole numbers: (N, 4).

    pictures: BGR as taken. low_px, high_px: (N,) disparities to search. covered: (N, N) bool, true
    where box j is of a nearer cone that covers a part of box i.
    """
    sides = boxes_px[:, 2:] - boxes_px[:, :2]
    scale = np.ceil((sides / (CONE_COLUMNS, CONE_ROWS)).max(axis=1)).astype(np.int64).clip(1)
    first = np.ceil(high_px / scale).astype(np.int64) + 3
    places = int((first - np.floor(low_px / scale)).max()) + 4
    size = np.array([COLUMNS, ROWS])
    middle = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
    corner = np.round(middle - scale[:, None] * (size / 2) + 0.5).astype(np.int64)
    shape = (len(boxes_px), ROWS, COLUMNS, 3)
    left = np.empty(shape, np.uint8)
    right = np.empty((*shape[:2], COLUMNS + places - 1, 3), np.uint8)
    for k, (s, (x, y), far) in enumerate(
        zip(scale.tolist(), corner.tolist(), first.tolist(), strict=True)
    ):
        left[k] = _patch(eyes[0], pictures[0], x, y, COLUMNS, s)
        right[k] = _patch(eyes[1], pictures[1], x - far * s, y, right.shape[2], s)
    # Middle of a patch's first pixel, in rectified pixels, and its distance to the next one.
    start = corner + (scale[:, None] - 1) / 2
    weight = _shape_weight((boxes_px - np.tile(start, 2)) / scale[:, None])
    weight *= left.any(axis=3)  # black is what the left eye does not see
    for i, j in np.argwhere(covered) if covered is not None else ():
        nearer = (boxes_px[j] - np.tile(start[i], 2)) / scale[i]
        weight[i] *= 1 - _shape_weight(nearer[None])[0]
    return Patches(left, weight, right, first, low_px / scale, scale)


def _patch(eye: CameraModel, picture: UInt8, x: int, y: int, columns: int, scale: int) -> UInt8:
    """ROWS x columns pixels of a rectified picture; outside of its reach, those at the border."""
    first, upper, last, lower = eye.reach_px
    x1, y1 = x + columns * scale, y + ROWS * scale
    left, top = min(max(x, first), last - 1), min(max(y, upper), lower - 1)
    right, bottom = max(min(x1, last), left + 1), max(min(y1, lower), top + 1)
    patch = eye.rectify_patch(picture, left, top, right, bottom)
    if (left, top, right, bottom) != (x, y, x1, y1):
        # Far outside, the border's pixel is all there is.
        rows = np.clip(np.arange(y, y1), top, bottom - 1) - top
        patch = patch[rows][:, np.clip(np.arange(x, x1), left, right - 1) - left]
    if scale > 1:
        patch = cv2.resize(patch, (columns, ROWS), interpolation=cv2.INTER_AREA)
    return np.asarray(patch, np.uint8)


def _shape_weight(box: Float64) -> Float32:
    """(N, ROWS, COLUMNS) how much a pixel belongs to the cone of a box, (N, 4) pixels of a patch.

    A trapezium over a base plate, with soft sides.
    """
    left, top, right, bottom = box.T[..., None]
    rows, columns = np.arange(ROWS), np.arange(COLUMNS)
    down = (rows - top) / (bottom - top)
    part = np.where(down > 0.9, 0.95, np.clip(0.2 + 0.62 * down, 0.2, 0.85))
    half = part * (right - left) / 2 + GROW_PX
    aside = np.abs(columns - (left + right) / 2)
    inside = np.clip((half[..., None] - aside[:, None]) / 0.7 + 0.5, 0, 1)
    upright = np.clip(rows - top + 0.5, 0, 1) * np.clip(bottom - rows + 0.5, 0, 1)
    return np.asarray(inside * upright[..., None], np.float32)


def find(patches: Patches) -> Disparities:
    """Find each left patch in its right one. NaN where it lies at an end of the search.

    Where the halves of a patch disagree it shows two cones, one behind the other. The half that
    shows more of its cone is looked for again: the lower one, as the box ends at the foot of the
    nearer cone, unless a nearer box covers it.
    """
    eyes = _smooth(patches.left), _smooth(patches.right)
    half = ROWS // 2
    found = _search(patches, eyes, patches.weight, np.arange(len(eyes[0])))
    torn = np.flatnonzero(found[3] > APART_PX)
    if len(torn):
        weight = patches.weight[torn]
        by_row = weight.sum(axis=2)
        upper = by_row[:, :half].sum(axis=1) > by_row[:, half:].sum(axis=1)
        by_row = by_row * ((np.arange(ROWS) < half) == upper[:, None])
        filled = by_row.cumsum(axis=1)
        above = filled - by_row < filled[:, -1:] / 2  # the first half of the weight
        found[:, torn] = _search(patches, eyes, weight * (by_row > 0)[..., None], torn, above)
    disparity, sigma, correlation, apart = found
    row = _row_offset(patches, eyes, disparity)
    scale = patches.scale
    return Disparities(disparity * scale, sigma * scale, correlation, apart * scale, row * scale)


def _search(
    patches: Patches,
    eyes: tuple[Float32, Float32],
    weight: Float32,
    rows: Int64,
    above: npt.NDArray[np.bool_] | None = None,
) -> Float64:
    """(4, K) disparity, its standard deviation, correlation, and how far the halves are apart.

    eyes: the patches, see `_smooth`. rows: (K,) which of them. weight: (K, ROWS, COLUMNS). above:
    (K, ROWS) which rows make the upper half; None: the first half of them. In pixels of a patch.
    """
    left, right = (eye if len(rows) == len(eye) else eye[rows] for eye in eyes)
    coarse, contrast = _coarse(left.sum(axis=1), right.sum(axis=1), weight)
    places = coarse.shape[1]
    reach = TAPS // 2
    best = coarse[:, reach : places - reach].argmax(axis=1) + reach
    stack = np.empty((len(rows), 3, TAPS + 2, ROWS, COLUMNS), np.float32)
    windows = sliding_window_view(right, COLUMNS, axis=3)  # K, 3, ROWS, places, COLUMNS
    every = np.arange(len(rows))
    for tap in range(TAPS):
        stack[:, :, tap] = windows[every, :, :, best + tap - reach]
    stack[:, :, TAPS] = left
    stack[:, :, TAPS + 1] = 1
    if above is None:
        parts = (np.s_[..., : ROWS // 2, :], np.s_[..., ROWS // 2 :, :])
        upper, lower = (_moments(stack[part], weight[part]) for part in parts)
    else:
        mask = above[..., None]
        upper, lower = (_moments(stack, weight * part) for part in (mask, ~mask))
    peaks = np.stack(_peak(np.concatenate([upper + lower, upper, lower]))).reshape(3, 3, -1)
    place, correlation, sigma = peaks[:, 0]
    # A place to the right is a smaller disparity.
    disparity = patches.first[rows] - best - place
    ends = (best == reach) | (disparity < patches.least[rows])
    blank = np.where(ends | (contrast < 3 * LEAST_CONTRAST), np.nan, 1.0)
    apart = np.abs(peaks[0, 1] - peaks[0, 2])
    return np.stack([disparity, sigma, correlation, apart]) * blank


def _row_offset(patches: Patches, eyes: tuple[Float32, Float32], disparity: Float64) -> Float64:
    """(N,) by how many rows the patch lies lower in the right eye than in the left one."""
    left, right = (eye.sum(axis=1) for eye in eyes)
    known = np.isfinite(disparity)
    place = patches.first - np.round(np.where(known, disparity, patches.first)).astype(np.int64)
    windows = sliding_window_view(right, COLUMNS, axis=2)
    place = place.clip(0, windows.shape[2] - 1)
    window = windows[np.arange(len(place)), :, place]
    weight = patches.weight[:, 1:-1].reshape(len(place), -1)
    total = weight.sum(axis=1) + 1e-9

    def centred(picture: Float32, first: int) -> Float32:
        flat = picture[:, first : first + ROWS - 2].reshape(len(place), -1)
        return np.asarray(flat - ((flat * weight).sum(axis=1) / total)[:, None], np.float32)

    own = centred(left, 1) * weight
    score = []
    for first in range(3):
        other = centred(window, first)
        power = (other * other * weight).sum(axis=1)
        score.append((own * other).sum(axis=1) / np.sqrt(np.maximum(power, 1e-3)))
    before, here, after = score
    bend = before - 2 * here + after
    peak = 0.5 * (before - after) / np.minimum(bend, -1e-9)
    row = np.where(bend < 0, peak.clip(-1, 1), np.sign(after - before))
    return np.where(known, row, np.nan).astype(np.float64)


def _smooth(patches: UInt8) -> Float32:
    """(N, 3, ROWS, columns) patches, blurred along the rows by 1 2 1; middle grey is 0.

    Between two pixels interpolation blurs too, so without this a place between them would look more
    alike than one on them: errors of up to 0.03 px that follow the fraction of the disparity.
    """
    n, rows, columns, colours = patches.shape
    lines = patches.reshape(n * rows, columns, colours)
    across = np.array([0.25, 0.5, 0.25])
    smooth = cv2.sepFilter2D(
        lines, cv2.CV_32F, across, np.ones(1), delta=-128, borderType=cv2.BORDER_REPLICATE
    )
    planes = np.reshape(smooth, patches.shape).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(planes, np.float32)


def _coarse(left: Float32, right: Float32, weight: Float32) -> tuple[Float64, Float64]:
    """(N, places) weighted normalised correlation, (N,) contrast of the best place."""
    windows = sliding_window_view(right, COLUMNS, axis=2)
    total = weight.sum(axis=(1, 2))[:, None] + 1e-9
    centred = left - ((weight * left).sum(axis=(1, 2)) / total[:, 0])[:, None, None]
    weighted = weight * centred
    own = (weighted * centred).sum(axis=(1, 2))[:, None]
    both = np.einsum('nrc,nrpc->np', weighted, windows)
    mean = np.einsum('nrc,nrpc->np', weight, windows) / total
    squared = sliding_window_view(right * right, COLUMNS, axis=2)
    spread = np.einsum('nrc,nrpc->np', weight, squared) / total - mean * mean
    spread = np.maximum(spread, 1e-3)
    score = both / np.sqrt(np.maximum(own, 1e-3) * spread * total)
    best = score.argmax(axis=1)
    contrast = np.sqrt(spread[np.arange(len(best)), best])
    return score.astype(np.float64), contrast.astype(np.float64)


def _moments(stack: Float32, weight: Float32) -> Float64:
    """(K, 3, TAPS + 2, TAPS + 2) weighted products of each two of what is stacked, by colour.

    stack: (K, 3, TAPS + 2, rows, COLUMNS), TAPS right patches, the left one, and ones. weight: (K,
    rows, COLUMNS).
    """
    flat = (*stack.shape[:3], -1)
    weighted = (stack * weight[:, None, None]).reshape(flat)
    products = weighted @ stack.reshape(flat).transpose(0, 1, 3, 2)
    return np.asarray(products, np.float64)


def _centred(moments: Float64) -> tuple[Float64, Float64]:
    """(K, TAPS + 1, TAPS + 1) products without the means of each colour, and (K,) the number of
    pixels that they stand for.
    """
    sums, total = moments[..., :-1, -1], moments[..., -1, -1] + 1e-9
    products = (
        moments[..., :-1, :-1] - sums[..., None] * sums[..., None, :] / total[..., None, None]
    )
    return products.sum(axis=1), total.sum(axis=1)


def _cubic(place: Float64) -> tuple[Float64, Float64]:
    """(..., TAPS) weights of the taps for a place between them, -1 to 1, and their slopes."""
    distance = place[..., None] - np.arange(-3, 4)
    far = np.abs(distance)
    near = (1.5 * far - 2.5) * far * far + 1
    out = ((-0.5 * far + 2.5) * far - 4) * far + 2
    value = np.where(far <= 1, near, np.where(far < 2, out, 0))
    near = (4.5 * far - 5) * far
    out = (-1.5 * far + 5) * far - 4
    slope = np.sign(distance) * np.where(far <= 1, near, np.where(far < 2, out, 0))
    return value, slope


_GRID, _GRID_SLOPES = _cubic(STEPS)
_GRID_PAIRS = (_GRID[:, :, None] * _GRID[:, None]).reshape(len(STEPS), -1)


def _peak(moments: Float64) -> tuple[Float64, Float64, Float64]:
    """(N,) place of the best correlation, that correlation, standard deviation of the place.

    The last is what the difference of the patches leaves, were it noise.
    """
    gram, count = _centred(moments)
    n = len(gram)
    right, both = gram[:, :TAPS, :TAPS], gram[:, :TAPS, TAPS]
    own = np.maximum(gram[:, TAPS, TAPS], 1e-6)
    power = np.maximum(right.reshape(n, -1) @ _GRID_PAIRS.T, 1e-6)
    score = (both @ _GRID.T) / np.sqrt(power * own[:, None])
    best = score[:, 1:-1].argmax(axis=1) + 1
    every = np.arange(n)
    before, here, after = (score[every, best + step] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    part = np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-12), 0).clip(-1, 1)
    slope = _GRID_SLOPES[best]
    steep = np.einsum('ni,nij,nj->n', slope, right, slope)
    gain = here * np.sqrt(own / power[every, best])
    rest = own * np.maximum(1 - here**2, 1e-6) / np.maximum(count - 3, 1)
    sigma = np.sqrt(rest / np.maximum(steep * gain**2, 1e-9))
    return STEPS[best] + part * (STEPS[1] - STEPS[0]), here, sigma
