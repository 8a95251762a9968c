"""Events on the way to a compiled engine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

EventKind = Literal['reason', 'wait', 'phase', 'warning', 'error', 'built']
"""reason: why there is a build. wait: for another process."""


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """A step on the way to an engine. done, of: steps of the phase; 0 of 0 where it has none."""

    kind: EventKind
    message: str
    done: int = 0
    of: int = 0


def ignore(event: BuildEvent) -> None:
    """Take an event that nobody wants to hear of."""


def print_event(event: BuildEvent) -> None:
    """Progress for a terminal: one line that changes; only what matters where it is no terminal."""
    terminal = sys.stderr.isatty()
    if event.kind == 'phase':
        if terminal:
            steps = f' {event.done}/{event.of}' if event.of else ''
            print(f'\r\033[K{event.message}{steps}', end='', file=sys.stderr, flush=True)
        return
    prefix = '\r\033[K' if terminal else ''
    label = {'warning': 'warning: ', 'error': 'error: '}.get(event.kind, '')
    print(f'{prefix}{label}{event.message}', file=sys.stderr, flush=True)


def print_warning(text: str) -> None:
    print_event(BuildEvent('warning', text))
