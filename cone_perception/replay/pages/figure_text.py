"""Figures of a replay as text: with unit, with interval, as a table's cell."""

from __future__ import annotations

import math

from cone_perception.accuracy.intervals import Interval
from cone_perception.pages.blocks import Cell
from cone_perception.pictures.draw import class_colour, short_name
from cone_perception.replay.figures.names import UNITS, kind_of


def unit_of(name: str) -> str:
    """Unit as it is shown: shares are in percent."""
    unit = kind_of(name).unit
    return '%' if unit == 'share' else unit


def number_text(name: str, value: float, signed: bool = False) -> str:
    """Number without its unit; a dash where it is not known."""
    if not math.isfinite(value):
        return '–'
    unit = kind_of(name).unit
    shown = 100 * value if unit == 'share' else value
    return f'{shown:{"+" if signed else ""}.{UNITS[unit].digits}f}'


def value_text(name: str, value: float) -> str:
    """Number with its unit."""
    return f'{number_text(name, value)} {unit_of(name)}'.rstrip() if math.isfinite(value) else '–'


def interval_text(name: str, figure: Interval, signed: bool = False) -> str:
    """Two ends of the interval without the unit, e.g. `42.0 – 44.9`; '' without one."""
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return ''
    return ' – '.join(number_text(name, end, signed) for end in (figure.low, figure.high))


def figure_text(name: str, figure: Interval) -> str:
    """Value and interval, e.g. `43.1 ms (42.0 – 44.9)`."""
    interval = interval_text(name, figure)
    return value_text(name, figure.value) + (f' ({interval})' if interval else '')


def figure_cell(name: str, figure: Interval, unit: bool = True, signed: bool = False) -> Cell:
    """Value for a table, the interval in small letters below it."""
    text = value_text(name, figure.value) if unit else number_text(name, figure.value, signed)
    return Cell(text, small=interval_text(name, figure, signed))


def name_cell(name: str) -> Cell:
    """A figure's name, which tells under the pointer what it is."""
    return Cell(name, title=kind_of(name).what)


def class_cell(name: str) -> Cell:
    """A class's short name in its colour."""
    blue, green, red = class_colour(name)
    return Cell(short_name(name), colour=f'rgb({red},{green},{blue})')
