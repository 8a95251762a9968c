"""A page's blocks as Markdown: its texts, tables and listings; charts and pictures stay there."""

from __future__ import annotations

from collections.abc import Sequence

from cone_perception.pages.blocks import (
    Block,
    Bullets,
    Cell,
    Listing,
    Page,
    Piece,
    Table,
    Text,
    Tiles,
)


def render_markdown(page: Page, link: str) -> str:
    """The page as Markdown. link: address of the page itself, which has the charts and pictures.

    What is folded away on the page is left out, but for listings.
    """
    parts = [
        f'# {page.title}',
        f'**{page.badge}** · {_line(page.subtitle)}',
        f'Charts and pictures: [{link}]({link})',
    ]
    for section in page.sections:
        if texts := list(filter(None, map(_markdown, section.blocks))):
            parts += [f'## {section.title}', *texts]
    return '\n\n'.join(parts) + '\n'


def _markdown(block: Block) -> str:
    match block:
        case Text():
            text = _line(block.text)
            return f'**{text}**' if block.strong else text
        case Bullets():
            lines = '\n'.join(f'- {_line(item)}' for item in block.items)
            return f'{_line(block.title)}\n\n{lines}' if lines and block.title else lines
        case Tiles():
            return '\n'.join(
                f'- **{_line(tile.value)}** {_line(tile.name)}' for tile in block.items
            )
        case Table() if block.rows:
            words = {0, *block.words}
            ruler = ['---' if place in words else '--:' for place in range(len(block.columns))]
            rows = [block.columns, ruler, *block.rows]
            strong = {place + 2 for place in block.strong}
            table = '\n'.join(
                f'| {" | ".join(_cell(cell, place in strong) for cell in row)} |'
                for place, row in enumerate(rows)
            )
            parts = (_line(block.title), table, _line(block.note))
            return '\n\n'.join(filter(None, parts))
        case Listing():
            return f'{_line(block.title)}:\n\n```{block.language}\n{block.text.rstrip()}\n```'
    return ''


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
