"""What a replay may cost at most: limits on its figures, in YAML, for a team's own CI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from cone_perception.errors import SettingsError
from cone_perception.replay.figures.names import is_known
from cone_perception.replay.figures.result import Figure, ReplayResult

End = Literal['value', 'low', 'high']
ENDS: tuple[End, ...] = ('value', 'low', 'high')

LOOK_AT = {
    'latency': 'the slowest station',
    'station': 'that station in the report',
    'own_cost': 'the stations around the network: pre- and postprocessing, publishing',
    'age_at_publish': 'the station wait: a queue that serves old frames',
    'answered': 'the other shares: they say where frames were lost',
    'transport': 'docs/transport.md: the profile, and the kernel memory of sockets',
    'dropped': 'the inference time against the time between two frames',
    'failed': 'the reasons in the report and in log/',
    'return': 'the way back: whether the monitor was starved of processor time',
    'unknown': 'whether the node publishes its timing',
    'node_memory': 'the curve of memory over time in the report',
    'precision': 'the worst frames and the table of classes in the report',
    'recall': 'the worst frames and the table of box heights in the report',
    'map50': 'the worst frames and the table of classes in the report',
    'rate': 'the shares: they say where frames were lost',
}
"""Beginning of a figure's name -> where its cause shows."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What one figure may be.

    end: which end of its 95 % interval has to keep the limit. optional: a figure that is not known
    keeps it too.
    """

    name: str
    max: float = math.inf
    min: float = -math.inf
    end: End = 'value'
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """All limits. source: the file that they come from."""

    source: str
    limits: tuple[Limit, ...]


def load_budget(path: Path) -> Budget:
    """Read figure names with their limits. Raises SettingsError that names what is wrong."""
    try:
        read = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f'{path} cannot be read as a budget: {error}') from error
    if not isinstance(read, Mapping) or not read:
        raise SettingsError(
            f'{path} is no budget: it needs lines as `latency_p99_ms: {{max: 80}}`.'
        )
    return Budget(str(path), tuple(_limit(path, name, entry) for name, entry in read.items()))


def over_budget(result: ReplayResult, budget: Budget) -> list[str]:
    """A sentence for each limit that is not kept: what, how much, and what to look at."""
    found = (_reason(result.figures, limit) for limit in budget.limits)
    return [reason for reason in found if reason]


def _limit(path: Path, name: object, entry: object) -> Limit:
    where = f'{path}: {name}'
    if not is_known(str(name)):
        raise SettingsError(
            f'{where} is no figure of a replay: docs/replay.md lists them, result.json has those '
            'of your replay.'
        )
    if not isinstance(entry, Mapping):
        raise SettingsError(f'{where} needs {{max: ...}} or {{min: ...}}, got {entry!r}.')
    unknown = set(entry) - {'max', 'min', 'end', 'optional'}
    if unknown:
        raise SettingsError(
            f'{where} has the unknown key {", ".join(sorted(map(str, unknown)))}: '
            'max, min, end and optional are known.'
        )
    if not {'max', 'min'} & set(entry):
        raise SettingsError(f'{where} limits nothing: it needs max or min.')
    bounds = {key: _number(where, key, entry[key]) for key in ('max', 'min') if key in entry}
    if bounds.get('min', -math.inf) > bounds.get('max', math.inf):
        raise SettingsError(f'{where} can never be kept: its min is above its max.')
    end, optional = entry.get('end', 'value'), entry.get('optional', False)
    if end not in ENDS:
        raise SettingsError(f'{where}: end is one of {", ".join(ENDS)}, got {end!r}.')
    if not isinstance(optional, bool):
        raise SettingsError(f'{where}: optional is true or false, got {optional!r}.')
    return Limit(str(name), **bounds, end=end, optional=optional)


def _number(where: str, key: str, value: Any) -> float:
    # In YAML true is a number, and `.nan` a limit that nothing exceeds.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SettingsError(f'{where}: {key} must be a number, got {value!r}.')
    return float(value)


def _reason(figures: Mapping[str, Figure], limit: Limit) -> str:
    """Why the limit is not kept; empty where it is."""
    figure = figures.get(limit.name, Figure(math.nan))
    judged = getattr(figure, limit.end)
    if not math.isfinite(judged):
        if limit.optional:
            return ''
        what = 'is not known' if math.isnan(figure.value) else 'has no interval'
        return (
            f'{limit.name} {what}, so nothing shows that it keeps its limit. Measure it, or '
            'mark it `optional: true`.'
        )
    if limit.min <= judged <= limit.max:
        return ''
    above = judged > limit.max
    what = '' if limit.end == 'value' else f' at the {limit.end} end'
    return (
        f'{limit.name} is {_text(figure)},{what} {"above" if above else "below"} the limit of '
        f'{limit.max if above else limit.min:g}. Look at {_look_at(figures, limit.name)}.'
    )


def _text(figure: Figure) -> str:
    known = math.isfinite(figure.low) and math.isfinite(figure.high)
    return f'{figure.value:.4g}' + (f' [{figure.low:.4g}, {figure.high:.4g}]' if known else '')


def _look_at(figures: Mapping[str, Figure], name: str) -> str:
    start = max((key for key in LOOK_AT if name.startswith(key)), key=len, default='')
    if start != 'latency':
        return LOOK_AT.get(start, f'{name} in the report')
    end = f'_{"p99" if name.endswith(("p95_ms", "p99_ms", "max_ms")) else "p50"}_ms'
    stations = {
        key.removeprefix('station_').removesuffix(end): figure.value
        for key, figure in figures.items()
        if key.startswith('station_') and key.endswith(end) and math.isfinite(figure.value)
    }
    if not stations:
        return 'the stations in the report'
    slowest = max(stations, key=lambda station: stations[station])
    return f'{LOOK_AT[start]}, {slowest}: {stations[slowest]:.4g} ms at {end[1:4]}'
