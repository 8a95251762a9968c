"""Figures of a report as text, and what belongs to them on every page."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cone_perception.pages.blocks import Tone
from training.judging.metrics import TITLES

TONES: Mapping[str, Tone] = {
    'better': 'good',
    'equal': 'unsure',
    'worse': 'bad',
    'inconclusive': 'unsure',
    'not compared': 'unsure',
    'better but below target': 'unsure',
}
"""Outcome -> colour."""


def number(value: Any) -> float:
    """A stored figure; NaN for None."""
    return math.nan if value is None else float(value)


def figure(value: Any) -> str:
    """0.7081; a dash where it is not known."""
    return _show(value, '.4f')


def signed(value: Any) -> str:
    """+0.0123."""
    return _show(value, '+.4f')


def count(value: Any) -> str:
    """19,975."""
    return _show(value, ',.0f')


def _show(value: Any, form: str) -> str:
    known = number(value)
    return f'{known:{form}}' if math.isfinite(known) else '–'


def mean_figure(values: Iterable[Any]) -> str:
    """The mean of stored figures."""
    return figure(statistics.mean(map(number, values)))


def span(found: Mapping[str, Any], show: Callable[[Any], str] = signed) -> str:
    """An interval: -0.0012 to +0.0140."""
    return f'{show(found["low"])} to {show(found["high"])}'


def difference_text(found: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    return f'{signed(found["value"])} ({span(found)})'


def time_text(text: Any) -> str:
    """2026-02-01T08:00:00+00:00 -> 2026-02-01 08:00 UTC."""
    return re.sub(r'T(\d\d:\d\d)(:\d\d)?\+00:00$', r' \1 UTC', str(text or ''))


def overall(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of TITLES out of those of an evaluation."""
    fixed = {f'{name}_fixed': value for name, value in figures.get('fixed', {}).items()}
    flat = {**figures, **figures.get('best_f1', {}), **fixed}
    return {name: flat.get(name) for name in TITLES}
