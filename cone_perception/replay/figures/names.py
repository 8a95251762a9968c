"""Every figure of a replay: its unit, which way is better, what it means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cone_perception.accuracy.intervals import Interval
from cone_perception.replay.traces import STATIONS

Better = Literal['lower', 'higher']


@dataclass(frozen=True, slots=True)
class FigureKind:
    """The unit and the meaning of a figure.

    unit: 'ms', 'Hz', 'share' (0..1), 'frames', 'cones', 'cores', 'MB', 'MB/min', '%', 'MHz', '°C',
    'W'. better: None where neither way is. what: one line, without a full stop.
    """

    unit: str
    better: Better | None
    what: str


_LATENCY = 'from sending a picture to the receipt of its cones'
_WHO = r'(node|player|monitor|replay)'
_OF_CLASS = r'(?: (.+))?'

FIGURES: Mapping[str, FigureKind] = {
    r'latency_mean_ms': FigureKind('ms', 'lower', f'mean time {_LATENCY}'),
    r'latency_min_ms': FigureKind('ms', 'lower', f'least time {_LATENCY}'),
    r'latency_max_ms': FigureKind('ms', 'lower', f'greatest time {_LATENCY}'),
    r'latency_p(50|90|95|99)_ms': FigureKind(
        'ms', 'lower', f'{{0}} % of the answers took at most this time {_LATENCY}'
    ),
    r'latency_jitter_ms': FigureKind(
        'ms', 'lower', 'mean change of the latency from one answer of a camera to the next'
    ),
    rf'station_({"|".join(STATIONS)})_p(50|99)_ms': FigureKind(
        'ms', 'lower', '{1} % of the frames spent at most this time at the station {0}'
    ),
    r'own_cost_p(50|99)_ms': FigureKind(
        'ms', 'lower', "the node's own time, without the network's run, for {0} % of the frames"
    ),
    r'age_at_publish_p(50|99)_ms': FigureKind(
        'ms', 'lower', 'age of the picture when its cones are published, for {0} % of the frames'
    ),
    r'age_at_publish_max_ms': FigureKind(
        'ms', 'lower', 'greatest age of a picture when its cones are published'
    ),
    r'rate_in_hz': FigureKind('Hz', None, 'pictures sent per second, all cameras together'),
    r'rate_received_hz': FigureKind(
        'Hz', 'higher', 'pictures that reached the node per second, all cameras together'
    ),
    r'rate_out_hz': FigureKind('Hz', 'higher', 'answers per second, all cameras together'),
    r'max_rate_hz': FigureKind(
        'Hz', 'higher', 'highest rate per camera at which at most 5 % of the frames are missed'
    ),
    r'frames_sent': FigureKind('frames', None, 'pictures sent, in all passes'),
    r'frames_answered': FigureKind(
        'frames', None, 'pictures whose answer came back, in all passes'
    ),
    r'answered_share': FigureKind('share', 'higher', 'of the pictures sent: the answer came back'),
    r'transport_share': FigureKind('share', 'lower', 'of the pictures sent: not received'),
    r'dropped_share': FigureKind(
        'share', 'lower', 'of the pictures sent: pushed out of the node by a newer one'
    ),
    r'failed_share': FigureKind('share', 'lower', 'of the pictures sent: not answerable'),
    r'return_share': FigureKind(
        'share', 'lower', 'of the pictures sent: answered, but the answer never came back'
    ),
    r'unknown_share': FigureKind(
        'share', 'lower', 'of the pictures sent: no answer, and nobody tells why'
    ),
    rf'{_WHO}_cpu_cores': FigureKind('cores', 'lower', 'cores that {0} kept busy, on average'),
    rf'{_WHO}_memory_peak_mb': FigureKind('MB', 'lower', 'most memory that {0} held at a time'),
    rf'{_WHO}_memory_slope_mb_per_min': FigureKind(
        'MB/min', 'lower', 'growth of the memory of {0} after its warm-up'
    ),
    r'gpu_load_percent': FigureKind('%', None, "mean load of the machine's GPU"),
    r'gpu_memory_peak_mb': FigureKind('MB', 'lower', "most memory in use on the machine's GPU"),
    r'gpu_clock_mhz': FigureKind('MHz', None, "mean clock of the GPU's multiprocessors"),
    r'gpu_temperature_max_c': FigureKind('°C', 'lower', 'highest temperature of the GPU'),
    r'gpu_power_w': FigureKind('W', 'lower', 'mean power of the GPU'),
    r'overhead_latency_p(50|99)_ms': FigureKind(
        'ms', None, 'latency with a node that only sends headers back, for {0} % of the frames'
    ),
    r'overhead_(player|monitor)_cpu_cores': FigureKind(
        'cores', None, 'cores that the {0} kept busy with a node that only sends headers back'
    ),
    rf'precision_(sent|answered){_OF_CLASS}': FigureKind(
        'share', 'higher', 'of the cones found in the frames {0}: those that are right'
    ),
    rf'recall_(sent|answered){_OF_CLASS}': FigureKind(
        'share', 'higher', 'of the cones in the frames {0}: those that were found'
    ),
    rf'map50_(sent|answered){_OF_CLASS}': FigureKind(
        'share', 'higher', 'average precision at IoU 0.5 in the frames {0}, mean of the classes'
    ),
    rf'ap50_(sent|answered){_OF_CLASS}': FigureKind(
        'share', 'higher', 'average precision at IoU 0.5 in the frames {0}'
    ),
    rf'flicker_share{_OF_CLASS}': FigureKind(
        'share', 'lower', 'of the cones seen before and after a frame: not seen in it'
    ),
    rf'detections_per_frame{_OF_CLASS}': FigureKind(
        'cones', None, 'cones found per answered frame'
    ),
    rf'agreement_(precision|recall|f1){_OF_CLASS}': FigureKind(
        'share', 'higher', "{0} with the reference model's cones taken as the truth"
    ),
}
"""Regular expression of a figure's whole name -> what it is. In the order of a report."""

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

_SUFFIXES = {
    'mb_per_min': 'MB/min',
    'percent': '%',
    'share': 'share',
    'cores': 'cores',
    'ms': 'ms',
    'hz': 'Hz',
    'mhz': 'MHz',
    'mb': 'MB',
    'c': '°C',
    'w': 'W',
}


def kind_of(name: str) -> FigureKind:
    """Describe the figure of this name.

    A name that no pattern of FIGURES has, of a newer version say: its unit by its ending, no
    better way, and a text that says so.
    """
    for pattern, kind in FIGURES.items():
        if match := re.fullmatch(pattern, name):
            what = kind.what.format(*match.groups())
            return FigureKind(kind.unit, kind.better, what + _narrowed(match))
    unit = next((unit for end, unit in _SUFFIXES.items() if name.endswith(f'_{end}')), '')
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


def _narrowed(match: re.Match[str]) -> str:
    """A class or a height band stands behind a space, as the last group."""
    narrowed = match.group(match.re.groups) if ' ' in match.group() else None
    return f', {narrowed} only' if narrowed else ''
