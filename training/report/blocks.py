"""What a report consists of, and its two forms: a page of HTML, and Markdown with files beside.

sections of blocks -> HTML with everything inside, or Markdown: the same words and figures
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Literal

import cv2

Tone = Literal['', 'good', 'bad', 'unsure']

PICTURE_WIDTH_PX = 1600
"""Wider pictures are embedded no wider."""

SHORT = 12
"""Table cells with fewer letters are not broken into lines."""


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph. `code` between backticks. strong: the sentence that counts."""

    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of lines, as Text has them."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Figures at a glance: value, what it is, tone."""

    items: Sequence[tuple[str, str, Tone]]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text. words: columns that hold words and are aligned left, beside the first.

    strong: rows that stand out.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = ()
    strong: Sequence[int] = ()
    note: str = ''


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG. name: of the file beside Markdown. legend: name and colour of each curve; no colour:
    what dashed curves are.
    """

    name: str
    svg: str
    caption: str
    legend: Sequence[tuple[str, str]] = ()
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file. private: it shows pictures of the data, and stays on this machine."""

    path: Path
    caption: str
    private: bool
    wide: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """Text as it is in a file, folded away on the page."""

    title: str
    text: str
    language: str = ''


@dataclass(frozen=True, slots=True)
class Folded:
    """Charts for who wants to see more: folded away on the page, left out of Markdown."""

    title: str
    charts: Sequence[Chart]


Block = Text | Bullets | Tiles | Table | Chart | Picture | Listing | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Report:
    """title, subtitle: of the page. badge: the outcome in a word or two, and its tone."""

    title: str
    subtitle: str
    badge: str
    tone: Tone
    sections: Sequence[Section]


def render_html(report: Report) -> str:
    """One page that needs nothing beside it."""
    template = (
        resources.files('training.report').joinpath('report.html').read_text(encoding='utf-8')
    )
    links = ''.join(
        f'<a href="#{anchor(section.title)}">{html.escape(section.title)}</a>'
        for section in report.sections
    )
    sections = ''.join(
        f'<section id="{anchor(section.title)}"><h2>{html.escape(section.title)}</h2>'
        f'{_html_blocks(section.blocks)}</section>'
        for section in report.sections
    )
    return Template(template).substitute(
        title=html.escape(report.title),
        subtitle=_inline(report.subtitle),
        badge=html.escape(report.badge),
        tone=report.tone,
        links=links,
        sections=sections,
    )


def render_markdown(report: Report, folder: Path, files: str, private: bool) -> str:
    """Markdown to lie in `folder`; its charts go to the folder `files` below it.

    private: pictures of the data are shown too, from where they lie below `folder`.
    """
    place = folder / files
    parts = [f'# {report.title}', f'**{report.badge}** · {_plain(report.subtitle)}']
    for section in report.sections:
        parts.append(f'## {section.title}')
        for block in section.blocks:
            if isinstance(block, Chart):
                place.mkdir(parents=True, exist_ok=True)
                (place / f'{block.name}.svg').write_text(block.svg, encoding='utf-8')
                link = f'{files}/{block.name}.svg'
                parts.append(f'![{block.name}]({link})\n\n{_plain(_legend(block))}')
            elif isinstance(block, Picture):
                if block.private and not private:
                    continue
                if private:
                    link = block.path.relative_to(folder).as_posix()
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    name = '-'.join(block.path.parts[-4:]).replace('=', '-')
                    (place / name).write_bytes(block.path.read_bytes())
                    link = f'{files}/{name}'
                parts.append(f'![{block.path.stem}]({link})\n\n{_plain(block.caption)}')
            elif not isinstance(block, Folded):
                parts.append(_markdown(block))
    return '\n\n'.join(part for part in parts if part) + '\n'


def anchor(title: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')


def _html_blocks(blocks: Sequence[Block]) -> str:
    """Charts and pictures that follow each other share rows."""
    parts: list[str] = []
    row: list[str] = []
    for block in [*blocks, None]:
        if isinstance(block, Chart | Picture) and not block.wide:
            row.append(_html(block))
            continue
        if row:
            parts.append(f'<div class="pair">{"".join(row)}</div>')
            row = []
        if block is not None:
            parts.append(_html(block))
    return ''.join(parts)


def _html(block: Block) -> str:
    match block:
        case Text(text, strong):
            return f'<p{" class=strong" if strong else ""}>{_inline(text)}</p>'
        case Bullets(items):
            return f'<ul>{"".join(f"<li>{_inline(item)}</li>" for item in items)}</ul>'
        case Tiles(items):
            return '<div class="tiles">{}</div>'.format(
                ''.join(
                    f'<div class="tile {tone}"><b>{html.escape(value)}</b>'
                    f'<span>{_inline(name)}</span></div>'
                    for value, name, tone in items
                )
            )
        case Table():
            return _html_table(block)
        case Chart():
            legend = ''.join(
                f'<span><i style="border-color:{colour}"></i>{html.escape(name)}</span>'
                if colour
                else f'<span><i class="dashed"></i>{html.escape(name)}</span>'
                for name, colour in block.legend
            )
            legend = f'<div class="legend">{legend}</div>' if legend else ''
            return (
                f'<figure>{block.svg}{legend}'
                f'<figcaption>{_inline(block.caption)}</figcaption></figure>'
            )
        case Picture():
            source = embed(block.path)
            return (
                f'<figure><img src="{source}" alt="{html.escape(block.caption)}">'
                f'<figcaption>{_inline(block.caption)}</figcaption></figure>'
                if source
                else f'<p>{html.escape(block.caption)}: {html.escape(block.path.name)} cannot be '
                'read.</p>'
            )
        case Folded(title, charts):
            return (
                f'<details><summary>{html.escape(title)}</summary>{_html_blocks(charts)}</details>'
            )
        case Listing(title, text):
            return (
                f'<details><summary>{html.escape(title)}</summary>'
                f'<pre>{html.escape(text)}</pre></details>'
            )
    raise TypeError(f'{type(block).__name__} is no block')


def _html_table(table: Table) -> str:
    words = {0, *table.words}

    def cells(row: Sequence[str], tag: str) -> str:
        return ''.join(
            f'<{tag} class="{"w" if place in words else ""}{" n" if len(cell) < SHORT else ""}">'
            f'{_inline(cell)}</{tag}>'
            for place, cell in enumerate(row)
        )

    rows = ''.join(
        f'<tr{" class=strong" if place in table.strong else ""}>{cells(row, "td")}</tr>'
        for place, row in enumerate(table.rows)
    )
    note = f'<p class="note">{_inline(table.note)}</p>' if table.note else ''
    return (
        f'<div class="scroll"><table><thead><tr>{cells(table.columns, "th")}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>{note}'
    )


def embed(path: Path) -> str:
    """A picture file as a data URI, made smaller where it is large; '' when it is none."""
    if path.suffix == '.svg' and path.is_file():
        return 'data:image/svg+xml;base64,' + base64.b64encode(path.read_bytes()).decode('ascii')
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if picture is None:
        return ''
    if picture.shape[1] > PICTURE_WIDTH_PX:
        height = round(picture.shape[0] * PICTURE_WIDTH_PX / picture.shape[1])
        picture = cv2.resize(picture, (PICTURE_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    if path.suffix.lower() == '.png' and path.stat().st_size < 300_000:
        kind, data = 'png', cv2.imencode('.png', picture)[1]
    else:
        kind, data = 'jpeg', cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return f'data:image/{kind};base64,' + base64.b64encode(data.tobytes()).decode('ascii')


def _inline(text: str) -> str:
    """Escaped text; code between backticks; https links."""
    escaped = html.escape(text)
    escaped = re.sub(r'`([^`]+)`', r'<code>\1</code>', escaped)
    return re.sub(r'(?<!["\w])(https?://[^\s<]+[\w/])', r'<a href="\1">\1</a>', escaped)


def _markdown(block: Block) -> str:
    match block:
        case Text(text, strong):
            return f'**{_plain(text)}**' if strong else _plain(text)
        case Bullets(items):
            return '\n'.join(f'- {_plain(item)}' for item in items)
        case Tiles(items):
            return '\n'.join(f'- **{_plain(value)}** {_plain(name)}' for value, name, _ in items)
        case Table():
            words = {0, *block.words}
            lines = ['---' if place in words else '--:' for place in range(len(block.columns))]
            rows = [block.columns, lines, *block.rows]
            bold = {place + 2 for place in block.strong}
            table = '\n'.join(
                '| ' + ' | '.join(_cell(cell, place in bold) for cell in row) + ' |'
                for place, row in enumerate(rows)
            )
            return f'{table}\n\n{_plain(block.note)}' if block.note else table
        case Listing(title, text, language):
            return f'{_plain(title)}:\n\n```{language}\n{text.rstrip()}\n```'
    raise TypeError(f'{type(block).__name__} is no block of text')


def _legend(chart: Chart) -> str:
    names = ', '.join(name for name, _ in chart.legend)
    return f'{chart.caption} Curves: {names}.' if names else chart.caption


def _plain(text: str) -> str:
    """One line, whatever is in it; HTML in names stays text outside of code."""
    parts = ' '.join(text.split()).split('`')
    return '`'.join(
        part if place % 2 else part.replace('<', '&lt;').replace('>', '&gt;')
        for place, part in enumerate(parts)
    )


def _cell(text: str, bold: bool) -> str:
    text = _plain(text).replace('|', '\\|')
    return f'**{text}**' if bold and text else text
