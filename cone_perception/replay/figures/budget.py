"""Limits on the figures of a replay, in YAML, for a team's own CI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cone_perception.errors import SettingsError
from cone_perception.files import read_yaml
from cone_perception.replay.figures.names import is_known
from cone_perception.replay.figures.positions import POSITION_FIGURES
from cone_perception.replay.figures.result import ReplayResult, first_mistake

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
    **dict.fromkeys(POSITION_FIGURES, 'the plots over range in the section Positions'),
}
"""Beginning of a figure's name -> where its cause shows."""


class Limit(BaseModel):
    """The limit of one figure.

    end: which end of its 95 % interval has to keep the limit. optional: a figure that is not known
    keeps it too.
    """

    model_config = ConfigDict(strict=True, extra='forbid', allow_inf_nan=False, frozen=True)

    max: float = math.inf
    min: float = -math.inf
    end: Literal['value', 'low', 'high'] = 'value'
    optional: bool = False

    @model_validator(mode='after')
    def _can_be_kept(self) -> Limit:
        if math.isinf(self.max) and math.isinf(self.min):
            raise ValueError('limits nothing: it needs max or min')
        if self.min > self.max:
            raise ValueError('can never be kept: its min is above its max')
        return self


Budget = Mapping[str, Limit]
"""Name of a figure -> its limit."""


def load_budget(path: Path) -> Budget:
    """Read figure names with their limits. Raises SettingsError that names what is wrong."""
    read = read_yaml(path, SettingsError)
    if not isinstance(read, Mapping) or not read:
        raise SettingsError(
            f'{path} is no budget: it needs lines as `latency_p99_ms: {{max: 80}}`.'
        )
    budget = {}
    for name, entry in read.items():
        if not is_known(str(name)):
            raise SettingsError(
                f'{path}: {name} is no figure of a replay: docs/replay.md lists them, result.json '
                'has those of your replay.'
            )
        try:
            budget[str(name)] = Limit.model_validate(entry)
        except ValidationError as error:
            raise SettingsError(
                f'{path}: {name}: {first_mistake(error, entry)}. '
                'Keys are max, min, end (value, low or high) and optional (true or false).'
            ) from error
    return budget


def over_budget(result: ReplayResult, budget: Budget) -> list[str]:
    """Find a sentence for each limit that is not kept: what, how much, and what to look at."""
    found = (_reason(result, name, limit) for name, limit in budget.items())
    return [reason for reason in found if reason]


def _reason(result: ReplayResult, name: str, limit: Limit) -> str:
    """Say why the limit is not kept; empty where it is."""
    figure = result.figure(name)
    judged = getattr(figure, limit.end)
    if not math.isfinite(judged):
        if limit.optional:
            return ''
        what = 'is not known' if math.isnan(figure.value) else 'has no interval'
        return (
            f'{name} {what}, so nothing shows that it keeps its limit. Measure it, or '
            'mark it `optional: true`.'
        )
    if limit.min <= judged <= limit.max:
        return ''
    above = judged > limit.max
    interval = f' [{figure.low:.4g}, {figure.high:.4g}]' if figure.known else ''
    what = '' if limit.end == 'value' else f' at the {limit.end} end'
    return (
        f'{name} is {figure.value:.4g}{interval},{what} {"above" if above else "below"} the limit '
        f'of {limit.max if above else limit.min:g}. Look at {_look_at(result, name)}.'
    )


def _look_at(result: ReplayResult, name: str) -> str:
    start = max((key for key in LOOK_AT if name.startswith(key)), key=len, default='')
    if start != 'latency':
        return LOOK_AT.get(start, f'{name} in the report')
    at = 'p99' if name.endswith(('p95_ms', 'p99_ms', 'max_ms')) else 'p50'
    slowest = result.slowest_station(at)
    if slowest is None:
        return 'the stations in the report'
    return f'{LOOK_AT[start]}, {slowest[0]}: {slowest[1]:.4g} ms at {at}'
