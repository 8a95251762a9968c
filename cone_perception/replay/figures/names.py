"""Every figure of a replay: its unit, which way is better, what it means, how it is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

from cone_perception.accuracy.intervals import Interval
from cone_perception.pages.blocks import Cell
from cone_perception.replay.traces import STATIONS

Better = Literal['lower', 'higher']


class FigureKind(NamedTuple):
    """The unit and the meaning of a figure.

    unit: one of UNITS, '' where it is not known. better: None where neither way is. what: one line,
    without a full stop.
    """

    unit: str
    better: Better | None
    what: str


class Unit(NamedTuple):
    """The way that figures of a unit are shown and compared.

    end: of a figure's name. digits: after the point, as it is shown. equal: the largest difference
    that counts as equal; equal_share: the same as a share of the baseline, if that is more.
    scatters: such a figure differs from run to run.
    """

    end: str
    digits: int
    equal: float
    equal_share: float = 0.0
    scatters: bool = False

    def margin(self, baseline: float) -> float:
        """Give the largest equal difference from a baseline."""
        return max(self.equal, self.equal_share * abs(baseline))


UNITS: Mapping[str, Unit] = {
    # The car moves 1 cm in 0.5 ms, and a twentieth of the latency changes no decision.
    'ms': Unit('_ms', 1, 0.5, 0.05, scatters=True),
    # 0..1, shown in percent. One frame or cone in a hundred, as in the training's verdicts.
    'share': Unit('_share', 1, 0.01),
    'Hz': Unit('_hz', 1, 0.1, 0.02, scatters=True),
    'frames': Unit('_frames', 0, 0),
    'cones': Unit('_cones', 2, 0.05, 0.02),
    # A planner's grid is coarser than 2 cm.
    'm': Unit('_m', 2, 0.02, 0.05),
    # An honest covariance has 1.
    'NEES': Unit('_nees', 2, 0.05, 0.05),
    'cores': Unit('_cores', 2, 0.05, 0.05, scatters=True),
    'MB': Unit('_mb', 0, 10, 0.05),
    # 60 MB in an hour's drive.
    'MB/min': Unit('_mb_per_min', 2, 1),
    '%': Unit('_percent', 0, 5),
    'MHz': Unit('_mhz', 0, 0, 0.05),
    '°C': Unit('_c', 0, 3),
    'W': Unit('_w', 0, 1, 0.05),
    '': Unit('', 3, 0),
}

_LATENCY = 'from sending a picture to the receipt of its cones'
_SENT = 'of the pictures sent:'
_PER_S = 'per second, all cameras together'
_AP = 'average precision at IoU 0.5 in the frames {0}'
_ECHO = 'with a node that only sends headers back'
_WHO = r'(node|player|monitor|replay)'
_OF_CLASS = r'(?: (.+))?'
_OFF = '{0} of how far positions are off'
_STATION = f'station_({"|".join(STATIONS)})'

_BY_UNIT: Mapping[tuple[str, Better | None], Mapping[str, str]] = {
    ('ms', 'lower'): {
        'latency_mean_ms': f'mean time {_LATENCY}',
        'latency_min_ms': f'least time {_LATENCY}',
        'latency_max_ms': f'greatest time {_LATENCY}',
        'latency_p(50|90|95|99)_ms': f'{{0}} % of the answers took at most this time {_LATENCY}',
        'latency_jitter_ms': 'mean change of the latency from one answer of a camera to the next',
        f'{_STATION}_p(50|99)_ms': '{1} % of the frames spent at most this time at the station {0}',
        'own_cost_p(50|99)_ms': "the node's own time, without the network's run, for {0} % of the "
        'frames',
        'age_at_publish_p(50|99)_ms': 'age of the picture when its cones are published, for {0} % '
        'of the frames',
        'age_at_publish_max_ms': 'greatest age of a picture when its cones are published',
    },
    ('ms', None): {'overhead_latency_p(50|99)_ms': f'latency {_ECHO}, for {{0}} % of the frames'},
    ('Hz', None): {'rate_in_hz': f'pictures sent {_PER_S}'},
    ('Hz', 'higher'): {
        'rate_received_hz': f'pictures that reached the node {_PER_S}',
        'rate_out_hz': f'answers {_PER_S}',
        'max_rate_hz': 'highest rate per camera at which at most 5 % of the frames are missed',
    },
    ('frames', None): {
        'frames_sent': 'pictures sent that are to be answered, in all passes',
        'frames_answered': 'pictures whose answer came back, in all passes',
    },
    ('share', 'lower'): {
        'transport_share': f'{_SENT} not received',
        'dropped_share': f'{_SENT} pushed out of the node by a newer one',
        'failed_share': f'{_SENT} not answerable',
        'return_share': f'{_SENT} answered, but the answer never came back',
        'unknown_share': f'{_SENT} no answer, and nobody tells why',
        f'wrong_over_1m_share{_OF_CLASS}': 'of the positions: those more than 1 m off, over all '
        'only nearer than 15 m',
        f'flicker_share{_OF_CLASS}': 'of the cones seen before and after a frame: not seen in it',
    },
    ('share', None): {
        'matched_share': f'{_SENT} of a pair whose other eye went through the network',
        f'inside_([12])_sigma_share{_OF_CLASS}': 'of the positions: those whose depth error is '
        'within {0} standard deviations; 0.68 and 0.95 are honest',
    },
    ('m', 'lower'): {
        f'depth_(median|p90)_m{_OF_CLASS}': f'{_OFF}, along the line of sight',
        f'across_(median|p90)_m{_OF_CLASS}': f'{_OFF}, square to the line of sight',
    },
    ('m', None): {f'depth_bias_m{_OF_CLASS}': 'mean depth error; positive is too far'},
    ('NEES', None): {
        f'depth_nees{_OF_CLASS}': 'mean of the squared depth error over its variance; 1 is honest, '
        'more is too sure',
        f'position_nees{_OF_CLASS}': 'mean normalised error squared, over its expectation; 1 is '
        'honest, more is too sure',
    },
    ('share', 'higher'): {
        'answered_share': 'of the pictures that are to be answered: the answer came back',
        f'precision_(sent|answered){_OF_CLASS}': 'of the cones found in the frames {0}: those that '
        'are right',
        f'recall_(sent|answered){_OF_CLASS}': 'of the cones in the frames {0}: those that were '
        'found',
        f'map50_(sent|answered){_OF_CLASS}': f'{_AP}, mean of the classes',
        f'ap50_(sent|answered){_OF_CLASS}': _AP,
        f'position_share{_OF_CLASS}': 'of the cones found: those with a position',
        f'by_stereo_share{_OF_CLASS}': 'of the positions: those by the other eye',
        f'agreement_(precision|recall|f1){_OF_CLASS}': "{0} with the reference model's cones taken "
        'as the truth',
    },
    ('cones', None): {f'detections_per_frame{_OF_CLASS}': 'cones found per answered frame'},
    ('cores', 'lower'): {f'{_WHO}_cpu_cores': 'cores that {0} kept busy, on average'},
    ('cores', None): {
        'overhead_(player|monitor)_cpu_cores': f'cores that the {{0}} kept busy {_ECHO}'
    },
    ('MB', 'lower'): {
        f'{_WHO}_memory_peak_mb': 'most memory that {0} held at a time',
        'gpu_memory_peak_mb': "most memory in use on the machine's GPU",
    },
    ('MB/min', 'lower'): {
        f'{_WHO}_memory_slope_mb_per_min': 'growth of the memory of {0} after its warm-up'
    },
    ('%', None): {'gpu_load_percent': "mean load of the machine's GPU"},
    ('MHz', None): {'gpu_clock_mhz': "mean clock of the GPU's multiprocessors"},
    ('°C', 'lower'): {'gpu_temperature_max_c': 'highest temperature of the GPU'},
    ('W', 'lower'): {'gpu_power_w': 'mean power of the GPU'},
}

FIGURES: Mapping[str, FigureKind] = {
    pattern: FigureKind(unit, better, what)
    for (unit, better), kinds in _BY_UNIT.items()
    for pattern, what in kinds.items()
}
"""Regular expression of a figure's whole name -> what it is."""

NVIDIA_NAMES: Mapping[str, str] = {
    'frames_sent': 'BasicPerformanceMetrics.NUM_FRAMES_SENT',
    'frames_missed': 'BasicPerformanceMetrics.NUM_MISSED_FRAMES',
    'rate_in_hz': 'BasicPerformanceMetrics.MEAN_PLAYBACK_FRAME_RATE',
    'rate_out_hz': 'BasicPerformanceMetrics.MEAN_FRAME_RATE',
    'latency_min_ms': 'BasicPerformanceMetrics.MIN_LATENCY',
    'latency_mean_ms': 'BasicPerformanceMetrics.MEAN_LATENCY',
    'latency_max_ms': 'BasicPerformanceMetrics.MAX_LATENCY',
    'gpu_load_percent': 'ResourceMetrics.MEAN_DEVICE_UTILIZATION',
}
"""Figure -> its name in the JSON of NVIDIA's ros2_benchmark, where both mean the same;
docs/replay.md tells of the differences. frames_missed: sent, but not answered."""


@cache
def kind_of(name: str) -> FigureKind:
    """Describe the figure of this name.

    A name that no pattern of FIGURES has, of a newer version say: its unit by its ending, no
    better way, and a text that says so.
    """
    for pattern, kind in FIGURES.items():
        if match := re.fullmatch(pattern, name):
            # A class or a height band stands behind a space, as the last group.
            narrowed = f', {match[match.re.groups]} only' if ' ' in name else ''
            return kind._replace(what=kind.what.format(*match.groups()) + narrowed)
    unit = next(unit for unit, known in UNITS.items() if name.endswith(known.end))
    return FigureKind(unit, None, 'not described by this version')


def is_known(name: str) -> bool:
    """Tell whether FIGURES has this name."""
    return any(re.fullmatch(pattern, name) for pattern in FIGURES)


def in_nvidia_names(
    figures: Mapping[str, Interval], per_pass: Sequence[Mapping[str, Interval]]
) -> dict[str, float]:
    """The figures that ros2_benchmark has too, under its names. Counts are the mean of a pass."""
    values = {name: figure.value for name, figure in figures.items()}
    if {'frames_sent', 'frames_answered'} <= values.keys():
        passes = max(1, len(per_pass))
        values['frames_missed'] = (values['frames_sent'] - values['frames_answered']) / passes
        values['frames_sent'] /= passes
    return {
        theirs: values[ours]
        for ours, theirs in NVIDIA_NAMES.items()
        if not math.isnan(values.get(ours, math.nan))
    }


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
    digits = UNITS[unit].digits
    # Rounded first: what is shown as zero has no sign.
    return f'{round(shown, digits) + 0.0:{"+" if signed else ""}.{digits}f}'


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
