"""Charts of a page, as Plotly figures: plain dicts, so that nothing here imports Plotly.

A chart is made of traces: `chart('latency', [line('left', x, y)], x='s', y='ms')`. Values that are
not finite are gaps. Colours are CSS variables of page.css, which knows them light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from cone_perception.pages.blocks import Chart

Trace = dict[str, Any]

SERIES_COLOURS = (
    '--blue', '--orange', '--green', '--violet', '--teal', '--pink', '--yellow', '--red',
)  # fmt: skip


def series_colour(number: int) -> str:
    """Colour of the series with this number, from 0; they repeat after eight."""
    return SERIES_COLOURS[number % len(SERIES_COLOURS)]


def chart(
    name: str,
    traces: Iterable[Trace],
    *,
    title: str = '',
    x: str = '',
    y: str = '',
    height_px: int = 280,
    caption: str = '',
    half: bool = False,
    levels: Mapping[str, float] | None = None,
    marks: Iterable[tuple[float, str]] = (),
    band: tuple[float, float] | None = None,
    x_axis: Mapping[str, Any] | None = None,
    y_axis: Mapping[str, Any] | None = None,
    **layout: Any,
) -> Chart:
    """A chart of the traces.

    title: above it. x, y: titles of the axes, a unit as a rule. levels: two dashed lines across,
    by name. marks: dashed lines upward, each with its text; both are left out where not finite.
    band: x from and to, grey. x_axis, y_axis, layout: more of Plotly's layout.
    """
    shapes: list[Trace] = []
    if band:
        edges = {'x0': band[0], 'x1': band[1], 'yref': 'paper', 'y0': 0, 'y1': 1}
        shapes.append({'type': 'rect', 'layer': 'below', 'fillcolor': '--line', **edges,
                       'line': {'width': 0}})  # fmt: skip
    for number, (text, value) in enumerate((levels or {}).items()):
        beside = 'bottom' if number else 'top'
        label = {'text': f' {text} {value:.1f}', 'xanchor': 'left', 'yanchor': beside}
        shapes += _rule('y', value, label)
    for value, text in marks:
        shapes += _rule('x', value, {'text': text, 'textangle': 0})
    figure = {
        'data': list(traces),
        'layout': {
            'height': height_px,
            'margin': {'l': 48, 'r': 70 if levels else 16, 't': 30, 'b': 36},
            'hovermode': 'closest',
            'shapes': shapes,
            'title': {'text': title},
            'xaxis': {'title': {'text': x}, 'showgrid': False, **(x_axis or {})},
            'yaxis': {'title': {'text': y}, **(y_axis or {})},
            **layout,
        },
    }
    return Chart(name, figure, caption, half)


def line(
    name: str,
    x: ArrayLike,
    y: ArrayLike,
    colour: str = '--blue',
    *,
    dash: Literal['solid', 'dash', 'dot'] = 'solid',
    shape: Literal['linear', 'hv', 'hvh'] = 'linear',
    marks: bool = False,
    **more: Any,
) -> Trace:
    """A curve. marks: a dot at each point. more: of Plotly's scatter trace."""
    drawn = {'color': colour, 'width': 2, 'dash': dash, 'shape': shape}
    mode = 'lines+markers' if marks else 'lines'
    return _trace('scatter', name, x, y, mode=mode, line=drawn, **more)


def area(name: str, x: ArrayLike, y: ArrayLike, colour: str, **more: Any) -> Trace:
    """A layer of a stack of areas, as steps; it lies on those that came before."""
    layer = line(name, x, y, colour, stackgroup='1', fillcolor=colour, **more)
    return layer | {'line': {'width': 0, 'shape': 'hvh'}}


def dots(name: str, x: ArrayLike, y: ArrayLike, colour: str, **more: Any) -> Trace:
    """Points. more: e.g. `text` for the pointer, `customdata`."""
    marker = {'color': colour, 'size': 8}
    return _trace('scatter', name, x, y, mode='markers', marker=marker, **more)


def bars(name: str, x: ArrayLike, y: ArrayLike, colour: str = '--blue', **more: Any) -> Trace:
    """Upright bars."""
    return _trace('bar', name, x, y, marker={'color': colour, 'line': {'width': 0}}, **more)


def strip(name: str, parts: Sequence[tuple[str, float, str]], unit: str) -> Chart:
    """One bar of parts in a row. parts: name, value and colour of each."""
    traces = [
        bars(part, [value], [''], colour, orientation='h', hovertemplate=f'%{{x:.1f}} {unit}')
        for part, value, colour in parts
    ]
    total = sum(trace['x'].item() for trace in traces)
    return chart(
        name,
        traces,
        height_px=64,
        barmode='stack',
        showlegend=False,
        x_axis={'visible': False, 'range': [0, total]},
        y_axis={'visible': False},
        margin={'l': 0, 'r': 0, 't': 6, 'b': 6},
    )


def histogram(name: str, edges: ArrayLike, counts: ArrayLike) -> Trace:
    """Bars between edges, which are one more than the counts."""
    at, heights = np.asarray(edges, np.float64), np.asarray(counts)
    reach = [f'{low:.4g} to {high:.4g}' for low, high in pairwise(at.tolist())]
    return bars(name, (at[:-1] + at[1:]) / 2, heights, width=np.diff(at), text=reach,
                textposition='none', hovertemplate='%{text}: %{y}<extra></extra>')  # fmt: skip


def shares(name: str, values: ArrayLike, colour: str, low: float = 0.0) -> Trace:
    """Empirical distribution: the share of the values, in percent, that are at most x.

    low: percent at which the curve begins.
    """
    known = np.asarray(values, np.float64)
    percent = np.linspace(low, 100.0, min(400, max(2, len(known))))  # more are not seen
    at = np.quantile(known, percent / 100, method='inverted_cdf') if len(known) else percent[:0]
    told = '%{y:.1f} % within %{x:.1f}'
    return line(name, at, percent[: len(at)], colour, shape='hv', hovertemplate=told)


def intervals(
    name: str,
    rows: Sequence[tuple[str, float, float, float]],
    colour: str = '--blue',
    *,
    hollow: bool = False,
    unit: str = '',
) -> Trace:
    """Values with intervals, one row each: label, value, low, high; for a chart as forest makes it.

    low, high: not finite where there is no interval. hollow: rings instead of dots.
    """
    values = np.array([[float(entry) for entry in row[1:]] for row in rows]).reshape(-1, 3)
    error = {'type': 'data', 'symmetric': False, 'color': colour, 'thickness': 2, 'width': 3,
             'array': np.nan_to_num(values[:, 2] - values[:, 0]),
             'arrayminus': np.nan_to_num(values[:, 0] - values[:, 1])}  # fmt: skip
    ends = [f' ({low:.4g} – {high:.4g})' if math.isfinite(low + high) else ''
            for _, low, high in values.tolist()]  # fmt: skip
    trace = dots(name, values[:, 0], [row[0] for row in rows], colour, error_x=error,
                 orientation='h', text=ends,
                 hovertemplate=f'%{{y}}: %{{x:.4g}} {unit}%{{text}}')  # fmt: skip
    trace['marker'] |= {'symbol': 'circle-open' if hollow else 'circle'}
    return trace


def forest(name: str, traces: Sequence[Trace], x: str = '', **more: Any) -> Chart:
    """A chart of `intervals`: the rows one below the other, the traces of a row side by side."""
    rows = len(dict.fromkeys(label for trace in traces for label in trace['y'].tolist()))
    height_px = 80 + rows * (14 + 11 * len(traces))
    return chart(name, traces, x=x, height_px=height_px, scattermode='group',
                 x_axis={'showgrid': True}, y_axis={'autorange': 'reversed'},
                 showlegend=len(traces) > 1, **more)  # fmt: skip


def _trace(kind: str, name: str, x: ArrayLike, y: ArrayLike, **more: Any) -> Trace:
    return {'type': kind, 'name': name, 'x': np.asarray(x), 'y': np.asarray(y), **more}


def _rule(axis: str, value: float, label: Trace) -> list[Trace]:
    """A dashed line across the whole chart at a value of one axis; none where it is not finite."""
    if not math.isfinite(value):
        return []
    other = 'y' if axis == 'x' else 'x'
    ends = {f'{axis}0': value, f'{axis}1': value, f'{other}0': 0, f'{other}1': 1}
    small = {'textposition': 'end', 'font': {'size': 11, 'color': '--dim'}}
    dashed = {'color': '--dim', 'width': 1, 'dash': 'dash'}
    return [
        {'type': 'line', f'{other}ref': 'paper', **ends, 'line': dashed, 'label': label | small}
    ]
