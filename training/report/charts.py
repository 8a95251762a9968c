"""Charts of the report as SVG: they need no library, no network, and follow the page's colours."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 560, 58, 14, 14, 44
LABEL_WIDTH, ROW_HEIGHT = 190, 34

COLOURS = (
    'var(--blue, #2563eb)',
    'var(--orange, #ea580c)',
    'var(--green, #15803d)',
    'var(--violet, #7c3aed)',
    'var(--yellow, #b27c00)',
    'var(--red, #dc2626)',
)
INK, DIM, LINE = 'var(--ink, #1c2330)', 'var(--dim, #667085)', 'var(--line, #e3e7ee)'
PAPER = 'var(--card, #ffffff)'

STYLE = (
    '<style>text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;'
    f'fill:{DIM}}}</style>'
)


@dataclass(frozen=True, slots=True)
class Series:
    """One curve. x, y: same length, not finite where unknown. colour: index into COLOURS.

    dashed: measured on something else than the others. error: half-lengths are not enough, so low
    and high of each point; empty: none. marks: a dot at each point.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False
    marks: bool = False
    error: Sequence[tuple[float, float]] = ()

    def points(self) -> list[tuple[float, float]]:
        """Those that are known."""
        pairs = zip(self.x, self.y, strict=True)
        return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True, slots=True)
class Bar:
    """A difference with its 95 % interval. hollow: not paired. strong: it decides."""

    name: str
    value: float
    low: float
    high: float
    hollow: bool = False
    strong: bool = False


def line_chart(
    series: Sequence[Series],
    title: str,
    x_title: str,
    *,
    log_y: bool = False,
    verticals: Sequence[tuple[float, str]] = (),
    height: int = 300,
) -> str:
    """Curves over a common axis; empty text when no point of any is known.

    The x axis begins at 0. verticals: x and a word for it, drawn as dotted lines.
    """
    known = [(one, points) for one in series if (points := one.points())]
    known = [(one, [p for p in points if p[1] > 0 or not log_y]) for one, points in known]
    known = [(one, points) for one, points in known if points]
    if not known:
        return ''
    xs = [x for _, points in known for x, _ in points]
    ys = [y for _, points in known for _, y in points]
    ys += [v for one, _ in known for pair in one.error for v in pair if math.isfinite(v)]
    x_axis = _Axis(min(0.0, *xs), max(xs), LEFT, WIDTH - RIGHT, whole=max(xs) >= 1)
    y_axis = _Axis(min(ys), max(ys), height - BOTTOM, TOP, log_y)
    parts = [_grid(x_axis, y_axis, x_title, height)]
    for at, word in verticals:
        x = x_axis.place(at)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}" stroke="{DIM}" '
            f'stroke-dasharray="2 4"/><text x="{x + 4:.1f}" y="{height - BOTTOM - 6}">'
            f'{_text(word)}</text>'
        )
    for one, points in known:
        parts.append(_curve(one, points, x_axis, y_axis))
    return _svg(''.join(parts), height, title)


def forest_chart(bars: Sequence[Bar], margin: float, title: str, x_title: str) -> str:
    """Differences with intervals, one below the other, beside the band that counts as equal."""
    shown = [bar for bar in bars if all(map(math.isfinite, (bar.value, bar.low, bar.high)))]
    if not shown:
        return ''
    height = TOP + ROW_HEIGHT * len(shown) + BOTTOM
    least = min(-1.5 * margin, *(bar.low for bar in shown))
    most = max(1.5 * margin, *(bar.high for bar in shown))
    axis = _Axis(least, most, LABEL_WIDTH, WIDTH - RIGHT)
    floor = height - BOTTOM
    band = axis.place(margin) - axis.place(-margin)
    parts = [
        f'<rect x="{axis.place(-margin):.1f}" y="{TOP}" width="{band:.1f}" height="{floor - TOP}" '
        f'fill="{LINE}" opacity=".75"><title>equal within {margin:g}</title></rect>',
        f'<line x1="{axis.place(0):.1f}" x2="{axis.place(0):.1f}" y1="{TOP}" y2="{floor}" '
        f'stroke="{DIM}"/>',
    ]
    for value in axis.ticks():
        parts.append(
            f'<text x="{axis.place(value):.1f}" y="{floor + 16}" text-anchor="middle">'
            f'{_number(value, signed=True)}</text>'
        )
    parts.append(
        f'<text x="{(LABEL_WIDTH + WIDTH - RIGHT) / 2:.0f}" y="{height - 8}" '
        f'text-anchor="middle">{_text(x_title)}</text>'
    )
    for row, bar in enumerate(shown):
        y = TOP + ROW_HEIGHT * (row + 0.5)
        clear = bar.low > 0 or bar.high < 0
        colour = COLOURS[0] if clear else DIM
        weight = ' style="font-weight:600"' if bar.strong else ''
        words = f'{bar.value:+.4f}, 95 %: {bar.low:+.4f} to {bar.high:+.4f}'
        parts.append(
            f'<g><title>{_text(bar.name)}: {words}</title>'
            f'<text x="0" y="{y + 4:.1f}"{weight}>{_text(_shorten(bar.name, 27))}</text>'
            f'<line x1="{axis.place(bar.low):.1f}" x2="{axis.place(bar.high):.1f}" y1="{y:.1f}" '
            f'y2="{y:.1f}" stroke="{colour}" stroke-width="{5 if bar.strong else 3}" '
            f'opacity=".6"{_dash(bar.hollow)}/>'
            f'<circle cx="{axis.place(bar.value):.1f}" cy="{y:.1f}" r="5" stroke="{colour}" '
            f'stroke-width="2" fill="{PAPER if bar.hollow else colour}"/></g>'
        )
    return _svg(''.join(parts), height, title)


class _Axis:
    """Values low..high to places start..end in the picture. whole: no other numbers are marked."""

    def __init__(
        self,
        low: float,
        high: float,
        start: float,
        end: float,
        log: bool = False,
        whole: bool = False,
    ) -> None:
        self._log, self._whole = log, whole
        low, high = (math.log10(low), math.log10(high)) if log else (low, high)
        if high - low < 1e-12:
            low, high = (0.0, 2 * high or 1.0) if high >= 0 and not log else (low - 1, high + 1)
        room = 0.04 * (high - low)
        vertical = start > end
        self._low, self._high = (low - room, high + room) if vertical else (low, high)
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        value = math.log10(value) if self._log else value
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round values inside the axis, four to eight."""
        if self._log:
            powers = range(math.floor(self._low), math.ceil(self._high) + 1)
            for sizes in ((1,), (1, 3), (1, 2, 3, 5, 7)):
                places = [
                    (math.log10(n) + power, n * 10.0**power) for power in powers for n in sizes
                ]
                found = [value for place, value in places if self._low <= place <= self._high]
                if len(found) > 2:
                    break
            return found
        span = self._high - self._low
        step = next(
            size * 10.0**power
            for power in range(math.floor(math.log10(span)) - 2, 20)
            for size in (1, 2, 5)
            if span / (size * 10.0**power) <= 7 and (power >= 0 or not self._whole)
        )
        first = math.ceil(self._low / step)
        return [n * step for n in range(first, math.floor(self._high / step) + 1)]


def _grid(x_axis: _Axis, y_axis: _Axis, x_title: str, height: int) -> str:
    floor, parts = height - BOTTOM, []
    for value in y_axis.ticks():
        y = y_axis.place(value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{LINE}"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        )
    for value in x_axis.ticks():
        x = x_axis.place(value)
        parts.append(
            f'<text x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{_number(value)}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{height - 6}" text-anchor="middle">'
        f'{_text(x_title)}</text>'
    )
    return ''.join(parts)


def _curve(one: Series, points: Sequence[tuple[float, float]], x_axis: _Axis, y_axis: _Axis) -> str:
    colour = COLOURS[one.colour % len(COLOURS)]
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in points]
    parts = [f'<g><title>{_text(one.name)}</title>']
    if len(places) > 1:
        line = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-linejoin="round"{_dash(one.dashed)}/>'
        )
    for (x, _), (low, high) in zip(points, one.error, strict=False):
        if math.isfinite(low) and math.isfinite(high):
            parts.append(
                f'<line x1="{x_axis.place(x):.1f}" x2="{x_axis.place(x):.1f}" '
                f'y1="{y_axis.place(low):.1f}" y2="{y_axis.place(high):.1f}" stroke="{colour}" '
                'stroke-width="3" opacity=".45"/>'
            )
    if one.marks or len(places) == 1:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places]
    return ''.join(parts) + '</g>'


def _svg(content: str, height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{_text(title)}">{STYLE}<rect width="{WIDTH}" height="{height}" '
        f'fill="{PAPER}"/>{content}</svg>'
    )


def _dash(wanted: bool) -> str:
    return ' stroke-dasharray="5 5"' if wanted else ''


def _number(value: float, signed: bool = False) -> str:
    """Short: 12000 -> 12 k, 0.0001 -> 1e-4."""
    if value == 0 or abs(value) < 1e-12:
        return '0'
    sign = '+' if signed and value > 0 else ''
    if abs(value) >= 1e6:
        return f'{sign}{value / 1e6:g} M'
    if abs(value) >= 1e3:
        return f'{sign}{value / 1e3:g} k'
    if abs(value) < 1e-3:
        return f'{sign}{value:.0e}'.replace('e-0', 'e-')
    return f'{sign}{value:.6g}'


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + '…'


def _text(text: str) -> str:
    return html.escape(text)
