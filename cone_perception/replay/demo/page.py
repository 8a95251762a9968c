"""The demo's page: one HTML file that needs no network."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path

from cone_perception.accuracy.summary import ClassAccuracy
from cone_perception.pages.old import plain, swatch, table, tiles
from cone_perception.pages.old import write_page as write_html
from cone_perception.pictures.draw import class_colour, short_name
from cone_perception.replay.demo.figures import truth_of
from cone_perception.replay.demo.pictures import PagePicture
from cone_perception.replay.demo.results import Results
from cone_perception.replay.pages.charts import (
    STATION_COLOURS,
    STATION_NAMES,
    round_up,
    station_bar,
)

CHART_WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1000, 56, 76, 12, 12


def write_page(path: Path, results: Results, pictures: Sequence[PagePicture]) -> None:
    """Write the page; every picture and chart is inside of it."""
    embedded = [
        {'index': picture.index, 'jpeg': base64.b64encode(picture.jpeg).decode('ascii')}
        for picture in pictures
    ]
    judged = results.figures.accuracy is not None
    write_html(
        path,
        'demo.html',
        title='A drive through the detector',
        subtitle=_subtitle(results),
        tiles=_tiles(results),
        picture_note=(
            'Boxes: cones found, with class and score. '
            + ('Dashes: cones that are there; dashes without a box are misses. ' if judged else '')
            + 'The same as a film: <a href="demo.mp4">demo.mp4</a>; at a glance: '
            '<a href="contact_sheet.png">contact_sheet.png</a>; '
            'all figures: <a href="demo.json">demo.json</a>.'
        ),
        latency_chart=_latency_chart(results),
        stations=_stations(results),
        cones_chart=_cones_chart(results),
        accuracy=_accuracy_table(results),
        about=table([], [(key, f'<code>{plain(text)}</code>') for key, text in _about(results)]),
        pictures=json.dumps(embedded),
        rate=json.dumps(_page_rate_hz(results, len(pictures))),
        first=len(pictures) // 3,
    )


def _subtitle(results: Results) -> str:
    return plain(
        f'{results.figures.frames} pictures from a bag, sent over DDS by one process, searched for '
        f'cones by a second ({results.about["engine"]}), recorded by a third.'
    )


def _tiles(results: Results) -> str:
    figures = results.figures
    lost = figures.frames - figures.answered
    shown = [
        (
            f'{figures.answered} / {figures.frames}',
            'pictures answered',
            lost > figures.frames // 20,
        ),
        (str(figures.failed), 'failed', figures.failed > 0),
    ]
    if figures.accuracy is not None:
        shown += [
            (_share(figures.accuracy.overall.precision), 'precision, all boxes', False),
            (_share(figures.accuracy.overall.recall), 'recall, all boxes', False),
        ]
    shown += [
        (f'{figures.p50_ms:.0f} ms', 'latency, median', False),
        (f'{figures.p99_ms:.0f} ms', 'latency, 99th percentile', False),
    ]
    return tiles(shown)


def _latency_chart(results: Results) -> str:
    """A bar for each picture; a red tick where there is no answer."""
    latencies = [frame.latency_ms for frame in results.frames]
    known = [value for value in latencies if value is not None]
    highest = round_up(max(known, default=1.0))
    chart = _Chart(len(latencies), highest, 220)
    step = chart.inner_width / max(1, len(latencies))
    for index, value in enumerate(latencies):
        x = LEFT + index * step
        if value is None:
            chart.add(
                f'<rect x="{x:.1f}" y="{chart.y(0) - 8:.1f}" width="{max(step * 0.8, 0.5):.2f}" '
                'height="8" fill="var(--red)"><title>no answer</title></rect>'
            )
            continue
        y = chart.y(value)
        chart.add(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(step * 0.8, 0.5):.2f}" '
            f'height="{chart.y(0) - y:.1f}" fill="var(--blue)" opacity=".75">'
            f'<title>picture {index + 1}: {value:.1f} ms</title></rect>'
        )
    for name, value in (('p50', results.figures.p50_ms), ('p99', results.figures.p99_ms)):
        if math.isfinite(value):
            y = chart.y(value)
            chart.add(
                f'<line x1="{LEFT}" x2="{CHART_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                'stroke="var(--ink)" stroke-dasharray="4 4" opacity=".6"/>'
                f'<text x="{CHART_WIDTH - RIGHT + 6}" y="{y + 4:.1f}">{name} {value:.1f}</text>'
            )
    return chart.svg()


def _cones_chart(results: Results) -> str:
    """Cones found in each picture, and those that are there."""
    frames = results.frames
    found = [None if frame.found is None else len(frame.found) for frame in frames]
    truth: list[int] = []
    if results.truth is not None:
        truth = [len(truth_of(frame, results.truth)) for frame in frames]
    highest = max([1, *(n for n in (*found, *truth) if n is not None)])
    chart = _Chart(len(frames), round_up(highest), 360)
    series: list[tuple[str, Sequence[int | None], str]] = [('found', found, '--blue')]
    if truth:
        series.insert(0, ('there', truth, '--dim'))
    for _, values, colour in series:
        points = ' '.join(
            f'{LEFT + chart.inner_width * (index + 0.5) / len(values):.1f},{chart.y(value):.1f}'
            for index, value in enumerate(values)
            if value is not None
        )
        chart.add(
            f'<polyline points="{points}" fill="none" stroke="var({colour})" stroke-width="3"/>'
        )
    names = ''.join(swatch(f'var({colour})', name) for name, _, colour in series)
    return f'{chart.svg(text_px=24)}<div class="legend">{names}</div>'


def _stations(results: Results) -> str:
    """A bar of the stations' medians, and a table below it."""
    percentiles = results.station_percentiles()
    rows = [
        (swatch(STATION_COLOURS[name], STATION_NAMES[name]), f'{p50:.1f}', f'{p99:.1f}')
        for name, (p50, p99) in percentiles.items()
    ]
    p50, p99 = results.figures.p50_ms, results.figures.p99_ms
    rows.append(('all together', f'{p50:.1f}', f'{p99:.1f}'))
    bar = station_bar({name: median for name, (median, _) in percentiles.items()})
    return f'{bar}{table(["station", "p50 ms", "p99 ms"], rows)}'


def _accuracy_table(results: Results) -> str:
    accuracy = results.figures.accuracy
    if accuracy is None:
        return ''
    rows = []
    for name, one in (*accuracy.per_class.items(), ('all', accuracy.overall)):
        blue, green, red = class_colour(name)
        colour = f'rgb({red},{green},{blue})' if name != 'all' else 'none'
        rows.append((swatch(colour, plain(short_name(name))), *_accuracy_cells(one)))
    by_height = [
        (plain(band.boxes), *_accuracy_cells(band.overall)) for band in results.figures.by_height
    ]
    head = ['there', 'found', 'right', 'precision', 'recall']
    return (
        '<section><h2>How right it was</h2>'
        f'{table(["class, all boxes", *head], rows)}{table(["box height", *head], by_height)}'
        '<p>Cones in the pictures that were answered. '
        'Right: of the same class, and the boxes share half of what they cover together.</p>'
        '</section>'
    )


def _accuracy_cells(one: ClassAccuracy) -> tuple[str, ...]:
    counts = (str(one.truths), str(one.found), str(one.correct))
    return *counts, _share(one.precision), _share(one.recall)


def _about(results: Results) -> list[tuple[str, str]]:
    rows = [(key, text) for key, text in results.about.items() if text]
    return [*rows, ('time', f'{results.wall_s:.0f} s altogether'), ('line', results.figures.line())]


def _share(value: float) -> str:
    return f'{100 * value:.0f} %' if math.isfinite(value) else '–'


def _page_rate_hz(results: Results, picture_count: int) -> float:
    """So that the page's pictures take as long as the drive did."""
    frames = results.frames
    duration_s = (frames[-1].sent_ns - frames[0].sent_ns) / 1e9 if frames else 0.0
    return round(min(30.0, max(1.0, picture_count / max(duration_s, 1.0))), 2)


class _Chart:
    """An SVG with a grid, one slot per picture along x, 0 to `highest` along y."""

    def __init__(self, count: int, highest: float, height: int) -> None:
        self._count = count
        self._highest = highest
        self._height = height
        self._parts: list[str] = []
        self.inner_width = CHART_WIDTH - LEFT - RIGHT

    def y(self, value: float) -> float:
        inner = self._height - TOP - BOTTOM
        return TOP + inner * (1 - min(value, self._highest) / self._highest)

    def add(self, part: str) -> None:
        self._parts.append(part)

    def svg(self, text_px: int = 13) -> str:
        grid = ''
        for share in (0, 0.5, 1) if self._highest < 4 else (0, 0.2, 0.4, 0.6, 0.8, 1):
            value = share * self._highest
            y = self.y(value)
            grid += (
                f'<line class="grid" x1="{LEFT}" x2="{CHART_WIDTH - RIGHT}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/><text x="{LEFT - 6}" y="{y + text_px / 3:.1f}" '
                f'style="font-size:{text_px}px" text-anchor="end">{value:g}</text>'
            )
        cursor = f'<line class="cursor" y1="{TOP}" y2="{self._height - BOTTOM}" x1="-9" x2="-9"/>'
        return (
            f'<svg viewBox="0 0 {CHART_WIDTH} {self._height}" data-count="{self._count}" '
            f'data-left="{LEFT}" data-width="{self.inner_width}" role="img">'
            f'{grid}{"".join(self._parts)}{cursor}</svg>'
        )
