"""What all pages of this package share: their look and their tables. None needs a network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template


def write_page(path: Path, template: str, **parts: object) -> None:
    """Fill a template of this package, e.g. `demo/page.html`, and write it.

    parts: HTML for each `$name` in it; `$style` is filled in here.
    """
    package = resources.files('cone_perception.pages')
    text = package.joinpath(template).read_text(encoding='utf-8')
    style = package.joinpath('old.css').read_text(encoding='utf-8')
    path.write_text(Template(text).substitute(parts, style=style), encoding='utf-8')


def plain(text: object) -> str:
    """As HTML that shows just this text."""
    return html.escape(str(text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; cells are HTML. No head: no line of column names."""
    names = f'<tr>{"".join(f"<th>{name}</th>" for name in head)}</tr>' if head else ''
    return f'<table>{names}{table_rows(rows)}</table>'


def table_rows(rows: Iterable[Sequence[str]]) -> str:
    """Rows of an HTML table; cells are HTML."""
    return ''.join(f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in rows)


def tiles(figures: Iterable[tuple[str, str, bool]]) -> str:
    """Large figures: value, name, and whether it is bad news."""
    return ''.join(
        f'<div class="tile{" bad" if bad else ""}"><b>{value}</b><span>{name}</span></div>'
        for value, name, bad in figures
    )


def swatch(colour: str, name: str) -> str:
    """A legend's entry. colour: of CSS."""
    return f'<span class="swatch"><i style="background:{colour}"></i>{name}</span>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Colour and name of each thing in a chart."""
    return f'<div class="legend">{"".join(swatch(*entry) for entry in entries)}</div>'
