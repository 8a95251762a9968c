"""The demo's results, and their JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.demo.recording import MIN_HEIGHT_PX, Exchange, Figures
from cone_perception.model_card import ModelCard
from cone_perception.types import Detections


@dataclass(frozen=True, slots=True)
class Results:
    """All that the page and the JSON tell.

    health: the node's last diagnostics per part. about: what was run, on what.
    wall_s: of the whole demo.
    """

    figures: Figures
    exchanges: Sequence[Exchange]
    health: Mapping[str, Mapping[str, str]]
    about: Mapping[str, str]
    card: ModelCard
    wall_s: float

    def station_percentiles(self) -> dict[str, tuple[float, float]]:
        """Station -> (p50, p99) in milliseconds, in the order that a picture passes them."""
        values: dict[str, list[float]] = {}
        for exchange in self.exchanges:
            for station, value in exchange.stations_ms.items():
                values.setdefault(station, []).append(value)
            if exchange.transport_ms is not None:
                values.setdefault('transport_ms', []).append(exchange.transport_ms)
        return {
            station: (float(np.percentile(of, 50)), float(np.percentile(of, 99)))
            for station, of in values.items()
        }


def count_tall(cones: Detections) -> int:
    """Cones that are judged: those of at least MIN_HEIGHT_PX."""
    return int((cones.height_px >= MIN_HEIGHT_PX).sum())


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
            station: {'p50': p50, 'p99': p99}
            for station, (p50, p99) in results.station_percentiles().items()
        },
        'judged_from_height_px': MIN_HEIGHT_PX,
        'accuracy': None if figures.accuracy is None else asdict(figures.accuracy),
        'wall_s': results.wall_s,
        'about': dict(results.about),
        'diagnostics': {name: dict(values) for name, values in results.health.items()},
        'pictures': [
            {
                'stamp_ns': exchange.stamp_ns,
                'latency_ms': exchange.latency_ms,
                'cones': None if exchange.found is None else len(exchange.found),
            }
            for exchange in results.exchanges
        ],
    }
    path.write_text(json.dumps(_without_nan(record), indent=1) + '\n', encoding='utf-8')


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
