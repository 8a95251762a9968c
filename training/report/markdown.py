"""A page's blocks as Markdown, with its charts and pictures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from cone_perception.pages.blocks import (
    Block,
    Bullets,
    Cell,
    Chart,
    Listing,
    Page,
    Picture,
    Piece,
    Table,
    Text,
    Tiles,
)

DASHES = {'solid': '-', 'dash': '--', 'dot': ':'}
"""Plotly's names -> Matplotlib's."""


@dataclass(frozen=True, slots=True)
class PictureFile(Picture):
    """A picture whose source is the path of a file.

    private: it shows pictures of the data, and stays on this machine.
    """

    private: bool = False


def with_sources(page: Page, source: Callable[[PictureFile], str]) -> Page:
    """The page with each file where `source` says; '' leaves the picture out."""

    def place(block: Block) -> list[Block]:
        if not isinstance(block, PictureFile):
            return [block]
        found = source(block)
        return [Picture(found, block.caption, half=block.half)] if found else []

    sections = [
        replace(section, blocks=[new for block in section.blocks for new in place(block)])
        for section in page.sections
    ]
    return replace(page, sections=sections)


def render_markdown(page: Page, folder: Path, files: str, private: bool) -> str:
    """Markdown to lie in `folder`; its charts go to the folder `files` below it.

    private: pictures of the data are shown too, all from where they lie below `folder`; else the
    others are copied to `files`. What is folded away on the page is left out.
    """
    place = folder / files

    def source(picture: PictureFile) -> str:
        path = Path(picture.source)
        if private:
            return path.relative_to(folder).as_posix()
        if picture.private:
            return ''
        name = '-'.join(path.parts[-4:]).replace('=', '-')
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(path.read_bytes())
        return f'{files}/{name}'

    parts = [f'# {page.title}', f'**{page.badge}** · {_line(page.subtitle)}']
    for section in with_sources(page, source).sections:
        parts.append(f'## {section.title}')
        for block in section.blocks:
            if isinstance(block, Chart):
                place.mkdir(parents=True, exist_ok=True)
                draw_chart(block, place / f'{block.name}.svg')
                parts.append(_figure(block.name, f'{files}/{block.name}.svg', block.caption))
            else:
                parts.append(_markdown(block))
    return '\n\n'.join(part for part in parts if part) + '\n'


def _markdown(block: Block) -> str:
    match block:
        case Text():
            text = _line(block.text)
            return f'**{text}**' if block.strong else text
        case Bullets():
            return '\n'.join(f'- {_line(item)}' for item in block.items)
        case Tiles():
            return '\n'.join(
                f'- **{_line(tile.value)}** {_line(tile.name)}' for tile in block.items
            )
        case Picture():
            return _figure(Path(block.source).stem, block.source, block.caption)
        case Table():
            words = {0, *block.words}
            ruler = ['---' if place in words else '--:' for place in range(len(block.columns))]
            rows = [block.columns, ruler, *block.rows]
            strong = {place + 2 for place in block.strong}
            table = '\n'.join(
                f'| {" | ".join(_cell(cell, place in strong) for cell in row)} |'
                for place, row in enumerate(rows)
            )
            return f'{table}\n\n{_line(block.note)}' if block.note else table
        case Listing():
            return f'{_line(block.title)}:\n\n```{block.language}\n{block.text.rstrip()}\n```'
    return ''


def _figure(name: str, link: str, caption: str) -> str:
    return f'![{name}]({link})\n\n{_line(caption)}'


def _line(text: Piece | Sequence[Piece]) -> str:
    """One line, whatever is in it; HTML in names stays text outside of code."""
    if isinstance(text, Cell):
        return _line(text.text)
    if not isinstance(text, str):
        return ''.join(map(_line, text))
    parts = ' '.join(text.split()).split('`')
    return '`'.join(
        part if place % 2 else part.replace('<', '&lt;').replace('>', '&gt;')
        for place, part in enumerate(parts)
    )


def _cell(piece: Piece, strong: bool) -> str:
    text = _line(piece).replace('|', '\\|')
    return f'**{text}**' if strong and text else text


def draw_chart(chart: Chart, path: Path) -> None:
    """Draw curves, points and intervals of a chart as an SVG, in the colours of a light page."""
    from matplotlib.figure import Figure

    css = resources.files('cone_perception.pages').joinpath('page.css').read_text(encoding='utf-8')
    colours: dict[str, str] = {}
    for name, value in re.findall(r'(--[\w-]+): (#\w+)', css):
        colours.setdefault(name, value)
    layout = chart.figure['layout']
    rows = layout['yaxis'].get('autorange') == 'reversed'
    height = layout['height'] / 80
    figure = Figure(figsize=(7, height))
    axes = figure.add_axes(
        (0.3 if rows else 0.1, 0.6 / height, 0.67 if rows else 0.87, 1 - 0.7 / height)
    )
    for trace in chart.figure['data']:
        _draw_trace(axes, trace, colours)
    for shape in layout['shapes']:
        if shape['type'] == 'rect':
            axes.axvspan(shape['x0'], shape['x1'], color=colours['--line'], zorder=0)
        elif shape['x0'] == shape['x1']:
            axes.axvline(shape['x0'], color=colours['--dim'], linestyle='--', linewidth=1)
    axes.set_xlabel(layout['xaxis']['title']['text'])
    axes.set_ylabel(layout['yaxis']['title']['text'])
    if layout['yaxis'].get('type') == 'log':
        axes.set_yscale('log')
    if rows:
        axes.invert_yaxis()
    axes.grid(color=colours['--line'])
    if layout.get('showlegend', len(chart.figure['data']) > 1):
        axes.legend(fontsize='x-small')
    figure.savefig(path, format='svg', metadata={'Date': None})


def _draw_trace(axes: Any, trace: Any, colours: dict[str, str]) -> None:
    marker = trace.get('marker', {})
    colour = trace.get('line', marker).get('color', '--blue')
    errors = {
        f'{axis}err': [trace[f'error_{axis}']['arrayminus'], trace[f'error_{axis}']['array']]
        for axis in 'xy'
        if f'error_{axis}' in trace
    }
    axes.errorbar(
        trace['x'],
        trace['y'],
        **errors,
        label=trace['name'] if trace.get('showlegend', True) else '_',
        color=colours.get(colour, colour),
        marker='o' if 'markers' in trace['mode'] else None,
        fillstyle='none' if marker.get('symbol') == 'circle-open' else 'full',
        linestyle=DASHES[trace['line']['dash']] if 'lines' in trace['mode'] else 'none',
    )
