"""The page of `cone-training data gap`: one HTML file that needs no network."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import cv2
import numpy as np

from cone_perception.classes import CLASS_NAMES
from cone_perception.files import write_whole
from cone_perception.pictures.draw import short_name
from training.data.gap import HALVINGS, Difference, Float64, GapReport

BINS = 40
WIDTH, HEIGHT = 420, 130
THUMBNAIL_PX = 320
STYLE = """
:root { --ink: #1c2330; --dim: #667085; --line: #e3e7ee; --page: #f5f7fa; --card: #fff;
  --a: #2563eb; --b: #ea580c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #2c3443;
  --page: #11151c; --card: #1a202b; --a: #6ea0ff; --b: #fb923c; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 20px; margin-top: 16px }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 16px; margin: 0 0 10px }
.dim, td.dim { color: var(--dim) } .a { color: var(--a) } .b { color: var(--b) }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 4px 8px; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 16px }
.pictures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px }
.pictures img, svg { width: 100%; display: block }
svg text { fill: var(--dim); font-size: 11px }
"""


def write_gap_page(path: Path, report: GapReport) -> None:
    """Write the page. It holds pictures of the data sets: for local viewing."""
    a, b = html.escape(report.a.name), html.escape(report.b.name)
    said = ''.join(f'<li>{html.escape(text)}</li>' for text in report.sentences())
    rows = ''.join(map(_row, report.differences))
    body = (
        f'<h1>From <span class="a">{a}</span> to <span class="b">{b}</span></h1>'
        f'<p class="dim">{len(report.a.paths)} and {len(report.b.paths)} pictures.</p>'
        f'<section><h2>In words</h2><ul>{said}</ul></section>'
        '<section><h2>Distances</h2><table><tr><th>figure</th><th>median A</th><th>median B</th>'
        f'<th>A to B</th><th>halves of one set</th><th>times</th></tr>{rows}</table>'
        '<p class="dim">Numbers: Wasserstein distance in standard deviations of both sets '
        'together. Classes: Jensen-Shannon distance. Embedding: maximum mean discrepancy. Halves: '
        f'the greatest distance of {HALVINGS} random halves of a set, drawn by blocks of '
        'consecutive pictures.</p></section>'
        f'<section><h2>Distributions</h2><div class="grid">{_charts(report)}</div></section>'
        f'{_embedding(report)}'
    )
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<title>{a} and {b}</title><style>{STYLE}</style></head><body><main>{body}</main></body>'
        '</html>\n'
    )
    write_whole(path, page)


def _row(entry: Difference) -> str:
    medians = ''.join(
        f'<td>{"–" if np.isnan(value) else f"{value:.3g}"}</td>'
        for value in (entry.median_a, entry.median_b)
    )
    style = '' if entry.notable else ' class="dim"'
    return (
        f'<tr><td{style}>{html.escape(entry.name)}</td>{medians}<td>{entry.distance:.3f}</td>'
        f'<td>{entry.within:.3f}</td><td>{entry.ratio:.1f}</td></tr>'
    )


def _charts(report: GapReport) -> str:
    charts = ''
    for entry in report.differences:
        if entry.name not in report.a.figures:
            continue
        a, b = (sample.figures[entry.name] for sample in (report.a, report.b))
        if a.kind == 'class':
            edges: Float64 = np.arange(len(CLASS_NAMES) + 1, dtype=np.float64) - 0.5
            ends = (short_name(CLASS_NAMES[0]), short_name(CLASS_NAMES[-1]))
        else:
            both = np.concatenate([a.values[:, 0], b.values[:, 0]])
            low, high = np.quantile(both, [0.005, 0.995])
            edges = np.linspace(float(low), float(max(high, low + 1e-6)), BINS + 1)
            ends = (f'{low:.3g}', f'{high:.3g}')
        unit = f' ({entry.unit})' if entry.unit else ''
        charts += (
            f'<figure style="margin:0"><figcaption>{html.escape(entry.name + unit)}</figcaption>'
            f'{_histogram(a.values[:, 0], b.values[:, 0], edges, ends)}</figure>'
        )
    return charts


def _histogram(a: Float64, b: Float64, edges: Float64, ends: tuple[str, str]) -> str:
    shares = [np.histogram(values, edges)[0] / max(len(values), 1) for values in (a, b)]
    highest = max(float(np.max(shares)), 1e-9)
    step = WIDTH / (len(edges) - 1)
    lines = ''
    for share, colour in zip(shares, ('--a', '--b'), strict=True):
        points = ' '.join(
            f'{x * step:.1f},{HEIGHT - 18 - (HEIGHT - 24) * value / highest:.1f}'
            for index, value in enumerate(share.tolist())
            for x in (index, index + 1)
        )
        lines += (
            f'<polyline points="{points}" fill="none" stroke="var({colour})" stroke-width="2"/>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{lines}<text x="0" y="{HEIGHT - 3}">'
        f'{html.escape(ends[0])}</text><text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">'
        f'{html.escape(ends[1])}</text></svg>'
    )


def _embedding(report: GapReport) -> str:
    found = report.embedding
    if found is None:
        return ''
    rows = np.concatenate([found.a, found.b])
    _, _, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    plane = rows @ axes[:2].T
    low, high = plane.min(axis=0), plane.max(axis=0)
    places = (plane - low) / np.maximum(high - low, 1e-9) * (980, 380) + 10
    dots = ''.join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" opacity=".6" '
        f'fill="var({"--a" if index < len(found.a) else "--b"})"/>'
        for index, (x, y) in enumerate(places.tolist())
    )
    sections = (
        '<section><h2>As the backbone sees them</h2>'
        f'<svg viewBox="0 0 1000 400" role="img">{dots}</svg>'
        f'<p class="dim">A dot per picture, on the two directions that vary most. Weights: '
        f'{html.escape(report.weights)}. Shuffled blocks of both sets are at most '
        f'{found.if_same:.3f} apart.</p></section>'
    )
    b, a = html.escape(report.b.name), html.escape(report.a.name)
    for kind, paths in report.examples.items():
        pictures = ''.join(map(_thumbnail, paths))
        sections += (
            f'<section><h2>Pictures of {b} {kind} to {a}</h2>'
            f'<div class="pictures">{pictures}</div></section>'
        )
    return sections


def _thumbnail(path: Path) -> str:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        return ''
    height = round(bgr.shape[0] * THUMBNAIL_PX / bgr.shape[1])
    small = cv2.resize(bgr, (THUMBNAIL_PX, height), interpolation=cv2.INTER_AREA)
    data = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    text = base64.b64encode(data.tobytes()).decode('ascii')
    name = html.escape(path.name)
    return f'<img alt="{name}" title="{name}" src="data:image/jpeg;base64,{text}">'
