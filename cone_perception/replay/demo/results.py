"""The demo's results, and their JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cone_perception.files import without_nan
from cone_perception.model_card import ModelCard
from cone_perception.replay.demo.figures import Figures, Truth
from cone_perception.replay.traces import STATIONS, FrameTrace


@dataclass(frozen=True, slots=True)
class Results:
    """All that the page and the JSON tell.

    frames: of the play. truth: None in a bag without it. health: the node's last diagnostics per
    part. about: what was run, on what. wall_s: of the whole demo.
    """

    figures: Figures
    frames: Sequence[FrameTrace]
    truth: Truth | None
    health: Mapping[str, Mapping[str, str]]
    about: Mapping[str, str]
    card: ModelCard
    wall_s: float

    def station_percentiles(self) -> dict[str, tuple[float, float]]:
        """Station -> (p50, p99) in milliseconds, in the order that a picture passes them."""
        values: dict[str, list[float]] = {name: [] for name in STATIONS}
        for frame in self.frames:
            for station, value in frame.stations_ms():
                values[station].append(value)
        return {name: _percentiles(of) for name, of in values.items() if of}

    def transport_percentiles(self) -> tuple[float, float]:
        """(p50, p99) in milliseconds of the way there and back; NaN where it is not known."""
        stations = (dict(frame.stations_ms()) for frame in self.frames)
        both = [
            known['transport_in'] + known['transport_out']
            for known in stations
            if {'transport_in', 'transport_out'} <= set(known)
        ]
        return _percentiles(both) if both else (math.nan, math.nan)


def write_results(path: Path, results: Results) -> None:
    """Write everything as JSON; figures that are not known are null."""
    figures = results.figures
    record = {
        'line': figures.line(),
        'frames': figures.frames,
        'answered': figures.answered,
        'failed': figures.failed,
        'latency_ms': {'p50': figures.p50_ms, 'p99': figures.p99_ms},
        'stations_ms': {
            f'{station}_ms': {'p50': p50, 'p99': p99}
            for station, (p50, p99) in {
                **results.station_percentiles(),
                'transport': results.transport_percentiles(),
            }.items()
        },
        'boxes': None if figures.accuracy is None else figures.accuracy.boxes,
        'accuracy': None if figures.accuracy is None else asdict(figures.accuracy),
        'accuracy_by_height': {band.boxes: asdict(band) for band in figures.by_height},
        'wall_s': results.wall_s,
        'about': dict(results.about),
        'diagnostics': {name: dict(values) for name, values in results.health.items()},
        'pictures': [
            {
                'stamp_ns': frame.stamp_ns,
                'fate': frame.fate,
                'latency_ms': frame.latency_ms,
                'cones': None if frame.found is None else len(frame.found),
            }
            for frame in results.frames
        ],
    }
    path.write_text(json.dumps(without_nan(record), indent=1) + '\n', encoding='utf-8')


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    return float(np.percentile(values, 50)), float(np.percentile(values, 99))
