"""Blocks that a page consists of: data only. page.py shows them as HTML; a report may also turn
them into Markdown.

A page is made like this:

    page = Page('Brakes', sections=[
        Section('', [Banner('Within the budget.', 'good'), Tiles([Tile('43 ms', 'median')])]),
        Section('Latency', [
            chart('latency', [line('left', seconds, latencies_ms)], x='s', y='ms'),
            Table(['camera', 'frames'], [['left', '40'], [Cell('right', colour='--blue'), '39']]),
        ]),
    ])
    write_page(folder / 'brakes.html', page)

Text is text: nothing in it is taken for HTML. `code` between backticks is set as code, and an
https address is a link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal['', 'good', 'bad', 'unsure', 'dim']
"""Colour of a word or a figure: green, red, yellow, grey."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of text with more to it, in a table, a list or a paragraph.

    small: what stands below in small letters, e.g. an interval. colour: of a swatch before it, as a
    CSS variable (`--blue`) or colour; 'none' leaves its room empty. title: shown under the pointer.
    href: address that it links to.
    """

    text: str
    small: str = ''
    tone: Tone = ''
    colour: str = ''
    title: str = ''
    href: str = ''


Piece = str | Cell


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph: a text, or pieces in a row. strong: the sentence that counts."""

    text: Piece | Sequence[Piece]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list, with a title above it."""

    items: Sequence[Piece]
    tone: Tone = ''
    title: str = ''


@dataclass(frozen=True, slots=True)
class Banner:
    """A framed message at the top of a page, with reasons below it."""

    text: str
    tone: Tone = 'bad'
    items: Sequence[Piece] = ()


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure at a glance. small: e.g. its interval."""

    value: str
    name: str
    tone: Tone = ''
    small: str = ''


@dataclass(frozen=True, slots=True)
class Tiles:
    """Figures at a glance, beside each other."""

    items: Sequence[Tile]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; without columns it has no head.

    words: columns of words, aligned left as the first one is. strong: rows that stand out.
    half: it takes the left or right half of its section. title: above it.
    """

    columns: Sequence[Piece]
    rows: Sequence[Sequence[Piece]]
    words: Sequence[int] = ()
    strong: Sequence[int] = ()
    note: str = ''
    half: bool = False
    title: str = ''


@dataclass(frozen=True, slots=True)
class Chart:
    """A Plotly figure; charts.py makes them.

    name: says what it shows, to who cannot see it. figure: `data` and `layout` as Plotly takes
    them, NaN where nothing is known; a colour may be a CSS variable (`--blue`). half: it takes the
    left or right half of its section. A trace whose `customdata` are numbers of frames shows the
    frame's picture in the page's Viewer on a click.
    """

    name: str
    figure: Mapping[str, Any]
    caption: str = ''
    half: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle over a picture. xyxy_px: left, top, right, bottom. kind: a class of page.css."""

    xyxy_px: Sequence[float]
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with a caption.

    source: a data URI (see page.embed) or a path relative to the page; '' where there is none.
    size_px: width, height; needed for boxes. tags: what a Gallery can be filtered by. frame: number
    by which charts know it.
    """

    source: str
    caption: str
    size_px: tuple[int, int] = (0, 0)
    boxes: Sequence[Box] = ()
    tags: Sequence[str] = ()
    frame: int = -1


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures in rows. With tags, a reader can show those of one tag only."""

    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Viewer:
    """One picture at a time: with a slider, as a film of `rate_hz`, or of the frame clicked on.

    Pictures of the page's galleries that have a frame are shown too.
    """

    pictures: Sequence[Picture]
    rate_hz: float = 10.0


@dataclass(frozen=True, slots=True)
class Listing:
    """Text as it is in a file. title: it is folded away below this; '' shows it at once."""

    title: str
    text: str
    language: str = ''


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the blocks below it.

    A page leaves out blocks without rows, items, pictures or traces, and sections without blocks.

    title: '' shows the blocks without a frame. half: beside another half section. folded: the
    reader opens it; such a one may stand among blocks too. note: a last paragraph.
    """

    title: str
    blocks: Sequence[Block]
    note: str = ''
    half: bool = False
    folded: bool = False


Block = (
    Text | Bullets | Banner | Tiles | Table | Chart | Picture | Gallery | Viewer | Listing
    | Section
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page. badge: the outcome in a word or two, and its tone. wide: for broad tables."""

    title: str
    subtitle: str = ''
    badge: str = ''
    tone: Tone = ''
    sections: Sequence[Section] = ()
    wide: bool = False
