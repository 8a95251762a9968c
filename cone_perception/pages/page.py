"""Shows a page's blocks as one HTML file that loads nothing: style, script, charts are inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import jinja2
import markupsafe
import numpy as np
from jinja2.utils import htmlsafe_json_dumps

from cone_perception.errors import OutputError, told_as
from cone_perception.files import to_json, without_nan, write_whole
from cone_perception.pages.blocks import Banner, Block, Chart, Page, Section, Table

DIGITS = 6
"""Significant ones of a number in a chart: a millisecond of ten minutes."""

PNG_BYTES = 300_000
"""A PNG of at most so many bytes, a drawing as a rule, stays one; others become JPEG."""

LISTED = 24
"""A trace with at most so many points is listed in full where there is no script."""


def write_page(path: Path, page: Page) -> None:
    """Write a page. Raises OutputError: when the file cannot be written."""
    with told_as(OutputError, f'{path} cannot be written', advice='Give another folder.'):
        write_whole(path, render_page(page))


def render_page(page: Page) -> str:
    """The page as HTML. Without Plotly it has the numbers of its charts instead."""
    sections = []
    for section in page.sections:
        if blocks := [block for block in section.blocks if _has_content(block)]:
            sections.append(replace(section, blocks=blocks))
    charts = any(isinstance(block, Chart) for section in sections for block in _flat(section))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('cone_perception', 'pages'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        anchor=anchor,
        inline=_inline,
        json=lambda value: htmlsafe_json_dumps(value, dumps=partial(to_json, digits=DIGITS)),
        kind=lambda block: type(block).__name__,
        numbers=numbers_of,
    )
    plotly = _plotly_script() if charts else ''
    return environment.get_template('page.html').render(
        page=page, sections=sections, plotly=plotly, charts=charts
    )


def embed(data: bytes, kind: str = 'jpeg') -> str:
    """An encoded picture as a data URI."""
    return f'data:image/{kind};base64,{base64.b64encode(data).decode("ascii")}'


def embed_picture(path: Path, width_px: int) -> str:
    """A picture file as a data URI, at most `width_px` wide; '' when it is none."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        return ''
    if bgr.shape[1] > width_px:
        height = round(bgr.shape[0] * width_px / bgr.shape[1])
        bgr = cv2.resize(bgr, (width_px, height), interpolation=cv2.INTER_AREA)
    if path.suffix.lower() == '.png' and path.stat().st_size < PNG_BYTES:
        return embed(cv2.imencode('.png', bgr)[1].tobytes(), 'png')
    return embed(cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes())


def anchor(title: str) -> str:
    """A section's id on the page: lower-case letters and digits, joined by dashes."""
    return re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')


def numbers_of(chart: Chart) -> Table:
    """A chart's numbers as a table, for who has no script.

    Short traces are listed; of long ones it gives count, least, median and greatest value.
    """
    listed, told = [], []
    for trace in chart.figure['data']:
        across, up = (without_nan(trace.get(axis, ()), DIGITS) for axis in 'xy')
        at, values = (up, across) if trace.get('orientation') == 'h' else (across, up)
        name = str(trace.get('name', ''))
        if len(values) <= LISTED:
            listed += [[name, _text(a), _text(v)] for a, v in zip(at, values, strict=True)]
            continue
        known = [value for value in values if isinstance(value, int | float)]
        if known:
            least, middle, most = (_text(float(f(known))) for f in (min, np.median, max))
            told.append([name, f'{len(known)} values', f'{least} … {middle} … {most}'])
    return Table(['', '', 'value; of many: least … median … greatest'], [*listed, *told])


def _has_content(block: Block) -> bool:
    if isinstance(block, Chart):
        return bool(block.figure['data'])
    parts = (getattr(block, name, None) for name in ('rows', 'items', 'pictures', 'blocks'))
    return isinstance(block, Banner) or all(part is None or len(part) for part in parts)


def _flat(section: Section) -> Iterator[Block]:
    for block in section.blocks:
        yield from _flat(block) if isinstance(block, Section) else [block]


def _text(value: object) -> str:
    return '–' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)


def _plotly_script() -> markupsafe.Markup:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return markupsafe.Markup('')
    return markupsafe.Markup(get_plotlyjs())


def _inline(text: object) -> markupsafe.Markup:
    """Escaped text; code between backticks; https addresses as links."""
    escaped = str(markupsafe.escape(text))
    escaped = re.sub(r'`([^`]+)`', r'<code>\1</code>', escaped)
    return markupsafe.Markup(
        re.sub(r'(?<!["\w])(https?://[^\s<]+[\w/])', r'<a href="\1">\1</a>', escaped)
    )
