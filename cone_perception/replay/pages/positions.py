"""Sections of a replay's page on positions: errors over range, and a frame seen from above."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cone_perception.accuracy.intervals import Float64
from cone_perception.pages.blocks import Block, Chart, Picture, Piece, Section, Table, Text
from cone_perception.pages.charts import Trace, chart, dots, line
from cone_perception.pages.page import embed
from cone_perception.pictures.draw import class_colour, short_name
from cone_perception.replay.figures.names import figure_cell, kind_of, number_text
from cone_perception.replay.figures.positions import (
    QUANTILES,
    RANGES_M,
    PositionErrors,
    camera_in_car_m,
    errors_of,
    in_bins,
)
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.charts import FROM_ZERO, describe
from cone_perception.replay.pages.pictures import class_names, encoded_frames
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import RANGE_SOURCES, Positions

COLUMNS = {
    'depth_bias_m': 'bias',
    'depth_median_m': 'median',
    'depth_p90_m': 'p90',
    'across_p90_m': 'p90 across',
    'position_nees': 'NEES',
    'inside_1_sigma_share': '1 sigma',
    'inside_2_sigma_share': '2 sigma',
    'position_share': 'placed',
    'by_stereo_share': 'stereo',
    'wrong_over_1m_share': 'wrong',
}

PLAIN = ('position_share', 'by_stereo_share')
"""Shown without their intervals, for which there is no room."""

SIGMAS = 2
ELLIPSE_POINTS = 25
STEREO = RANGE_SOURCES.index('stereo')
IN_CAR, IN_CAMERA = np.array([(0, -1, 0), (1, 0, 0)]), np.array([(1, 0, 0), (0, 0, 1)])
"""From x, y, z of a frame to what lies to the right and ahead: of the car's, of an optical one."""

HONEST_PERCENT = {'1 sigma': 68.3, '2 sigma': 95.4}


def position_sections(result: ReplayResult, bag: Path | None) -> Iterator[Section]:
    """What the positions are worth, where they are judged, and where there are any a top view."""
    errors = errors_of(result, result.frames)
    if len(errors):
        yield Section('Positions', _judged(result, errors), _explained())
    frame = most_placed(result.frames)
    if frame is None:
        return
    told = f'{describe(frame)}, {int(_placed(frame).known.sum())} of them placed'
    yield Section('Seen from above', [top_view(result, frame)], half=True)
    problems: list[str] = []
    picture: Block = Text(f'No picture of {told}: the bag was not given, or is not there any more.')
    if bag is not None and bag.exists():
        encoded = dict(encoded_frames(result, bag, [frame], problems)).get(frame, '')
        if isinstance(encoded, bytes):
            picture = Picture(embed(encoded), told)
        else:
            picture = Text(f'No picture of {told}: {" ".join([encoded, *problems])}')
    yield Section('The same frame', [picture], half=True)


def _explained() -> str:
    return (
        'Over the cones found, by true range: 10 m holds 7.5 to 12.5 m. Bias, median, p90: of the '
        'depth error, along the line from the camera, in metres; too far is positive. Across: '
        'square to it. NEES: mean error squared in terms of the covariance; an honest one has 1, '
        '68 % of its errors inside 1 sigma and 95 % inside 2. Placed: cones with a position. '
        'Wrong: positions over 1 m off, in the last row only below 15 m. In small: 95 % interval.'
    )


def _judged(result: ReplayResult, errors: PositionErrors) -> list[Block]:
    rows: list[list[Piece]] = []
    for of, inside in (*list(in_bins(errors).items())[1:], ('', np.ones(len(errors), bool))):
        named = {f'{name}{of}': name for name in COLUMNS}
        if inside.any() and all(name in result.figures for name in named):
            cells = [
                figure_cell(name, result.figures[name], unit=False)
                if named[name] not in PLAIN
                else number_text(name, result.figures[name].value)
                for name in named
            ]
            rows.append([of or 'all', str(int(inside.sum())), *cells])
    shown = [f'{title}, %' if kind_of(n).unit == 'share' else title for n, title in COLUMNS.items()]
    table = Table(['range', 'cones', *shown], rows)
    return [table, error_chart(errors), *honesty_charts(result)]


def error_chart(errors: PositionErrors) -> Chart:
    """Median and p90 of the depth error in each bin: of all positions, and of those by stereo."""
    traces = []
    bins = list(in_bins(errors).values())[1:]
    for whose, colour, counted in (
        ('all', '--blue', errors.source > 0),
        ('by stereo', '--green', errors.source == STEREO),
        ('by height or ground', '--orange', errors.source > STEREO),
    ):
        for name, q in QUANTILES.items():
            off_m = [np.abs(errors.depth_m[inside & counted]) for inside in bins]
            values = [float(np.quantile(each, q)) if len(each) else math.nan for each in off_m]
            dash: Any = 'solid' if name == 'median' else 'dash'
            told = [f'{len(each)} cones' for each in off_m]
            if np.isfinite(values).any():
                traces.append(
                    line(
                        f'{name}, {whose}', RANGES_M, values, colour, dash=dash, marks=True,
                        text=told, hovertemplate='%{y:.2f} m, %{text}',
                    )
                )  # fmt: skip
    return chart(
        'depth error over range', traces, title='Depth error', x='range, m', y='m', y_axis=FROM_ZERO
    )


def honesty_charts(result: ReplayResult) -> Iterator[Chart]:
    """Shares inside one and two sigma, and the NEES, over range."""
    traces = []
    for count, colour in ((1, '--blue'), (2, '--violet')):
        name = f'inside_{count}_sigma_share'
        traces.append(_over_range(result, name, f'inside {count} sigma', colour, 100.0, '%'))
    share_axis = {'range': [0, 103]}
    yield chart(
        'shares inside one and two sigma', traces, title='Errors inside 1 and 2 sigma',
        x='range, m', y='%', half=True, levels=HONEST_PERCENT, y_axis=share_axis,
    )  # fmt: skip
    yield chart(
        'NEES over range',
        [
            _over_range(result, 'position_nees', 'depth and across', '--teal', 1.0, ''),
            _over_range(result, 'depth_nees', 'depth alone', '--blue', 1.0, ''),
        ],
        title='NEES',
        x='range, m', half=True, levels={'honest': 1.0}, y_axis=FROM_ZERO,
    )  # fmt: skip


def _over_range(
    result: ReplayResult, name: str, title: str, colour: str, factor: float, unit: str
) -> Trace:
    """A figure in each bin, with its interval."""
    figures = [result.figure(f'{name} {middle_m} m') for middle_m in RANGES_M]
    value, low, high = factor * np.array([(f.value, f.low, f.high) for f in figures]).T
    error = {'type': 'data', 'symmetric': False, 'color': colour, 'thickness': 1.5, 'width': 3,
             'array': np.nan_to_num(high - value),
             'arrayminus': np.nan_to_num(value - low)}  # fmt: skip
    told = f'%{{y:.2f}} {unit}'
    return line(title, RANGES_M, value, colour, marks=True, error_y=error, hovertemplate=told)


def most_placed(frames: Sequence[FrameTrace]) -> FrameTrace | None:
    """The first of the frames with the most positions; None where there are none."""
    placed = {f: int(f.positions.known.sum()) for f in frames if f.positions is not None}
    best = max(placed, key=lambda frame: placed[frame], default=None)
    return best if best is not None and placed[best] else None


def _placed(frame: FrameTrace) -> Positions:
    assert frame.positions is not None
    return frame.positions


def top_view(result: ReplayResult, frame: FrameTrace) -> Chart:
    """A frame from above, forward is up: found cones with ellipses, true ones as rings."""
    found, positions = frame.found, _placed(frame)
    assert found is not None
    settings = result.configuration.get('settings') or {}
    in_car = positions.frame_id == settings.get('base_frame', positions.frame_id)
    axes = IN_CAR if in_car else IN_CAMERA
    seen_m, names = positions.xyz_m @ axes.T, class_names(result)
    top_m = float(np.nanmax(seen_m[:, 1])) + 3
    traces: list[Trace] = []
    there = (result.places or {}).get((frame.camera, frame.stamp_ns))
    if there is not None and there.frame_id == positions.frame_id:
        true_m = there.xyz_m[there.known] @ axes.T
        x, y = true_m[true_m[:, 1] < top_m].T
        traces.append(_symbols('true cones', x, y, '--ink', 'circle-open', hoverinfo='skip'))
    for class_id in np.unique(found.class_id[positions.known]).tolist():
        rows = np.flatnonzero(positions.known & (found.class_id == class_id)).tolist()
        blue, green, red = class_colour(names[class_id])
        colour, name = f'rgb({red},{green},{blue})', short_name(names[class_id])
        outlines = [
            seen_m[row] + _ellipse(axes @ positions.covariance_m2[row] @ axes.T) for row in rows
        ]
        x, y = np.concatenate(outlines).T
        look: dict[str, Any] = {'legendgroup': name, 'showlegend': False, 'hoverinfo': 'skip'}
        traces.append(line(f'{name}, {SIGMAS} sigma', x, y, colour, **look))
        told = [
            f'{np.linalg.norm(seen_m[row]):.1f} m by {RANGE_SOURCES[positions.source[row]]}, '
            f'score {found.score[row]:.2f}'
            for row in rows
        ]
        hover = f'{name}: %{{text}}<extra></extra>'
        x, y = seen_m[rows].T
        traces.append(dots(name, x, y, colour, text=told, hovertemplate=hover, legendgroup=name))
    left_end_m, right_end_m = np.nanmin(seen_m[:, 0]) - 3, np.nanmax(seen_m[:, 0]) + 3
    whole = {'zeroline': False, 'constrain': 'domain'}
    ahead_m, left_m = camera_in_car_m(settings) if in_car else (0.0, 0.0)
    traces.append(_symbols('camera', [-left_m], [ahead_m], '--dim', 'triangle-up'))
    rings = '; rings: where they stand' if traces[0]['name'] == 'true cones' else ''
    return chart(
        'a frame seen from above',
        traces,
        x='to the right, m',
        y='ahead, m',
        # Half a page is some 390 px wide without the margins.
        height_px=round(140 + 390 * min(1.6, (top_m + 2) / (right_end_m - left_end_m))),
        y_axis={'scaleanchor': 'x', 'range': [-2, top_m], **whole},
        x_axis={'showgrid': True, 'range': [left_end_m, right_end_m], **whole},
        caption=f'Dots: cones found, each with its ellipse of {SIGMAS} sigma{rings}.',
    )


def _symbols(name: str, x: ArrayLike, y: ArrayLike, colour: str, symbol: str, **more: Any) -> Trace:
    """Larger marks of one shape."""
    trace = dots(name, x, y, colour, **more)
    return trace | {'marker': {'color': colour, 'size': 12, 'symbol': symbol}}


def _ellipse(covariance_m2: Float64) -> Float64:
    """(ELLIPSE_POINTS + 1, 2) outline around zero of a 2x2 covariance; NaN ends it."""
    variances, turn = np.linalg.eigh(covariance_m2)
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    outline = turn @ (SIGMAS * np.sqrt(np.maximum(variances, 0))[:, None] * circle)
    return np.concatenate([outline.T, np.full((1, 2), np.nan)])
