"""Which precision is fastest on this card, as `build-engine --precision best` measured it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cone_perception.engines import Engine
from cone_perception.engines.plan import PlanCache, PlanKey, slug, write_whole
from cone_perception.model_card import ModelCard, Precision
from cone_perception.types import UInt8

PrecisionChoice = Literal['best', 'int8', 'fp16', 'fp32']

WARM_UP_RUNS = 20


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the picture in host memory to the raw output in host memory."""

    median_ms: float
    p99_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest of several engines of one model.

    keys: precision -> hash of its plan's key. medians_ms: precision -> what was measured.
    """

    precision: Precision
    keys: Mapping[Precision, str]
    medians_ms: Mapping[Precision, float]


def measure_latencies(engines: Sequence[Engine], pictures: UInt8, runs: int) -> list[Latency]:
    """Time engines in turns, so that a clock that changes hits them alike.

    pictures: (N, H, W, 3) uint8; as many as a batch takes are run, repeated where there are fewer.
    """
    batches = [_batch(pictures, engine) for engine in engines]
    for engine, batch in zip(engines, batches, strict=True):
        for _ in range(WARM_UP_RUNS):
            engine.run(batch)
    times_ms: list[list[float]] = [[] for _ in engines]
    for _ in range(runs):
        for engine, batch, measured in zip(engines, batches, times_ms, strict=True):
            started = time.perf_counter_ns()
            engine.run(batch)
            measured.append((time.perf_counter_ns() - started) / 1e6)
    return [
        Latency(statistics.median(measured), float(np.percentile(measured, 99)), runs)
        for measured in times_ms
    ]


def choose(keys: Mapping[Precision, PlanKey], latencies: Mapping[Precision, Latency]) -> Choice:
    """The precision with the lowest median."""
    return Choice(
        min(latencies, key=lambda precision: latencies[precision].median_ms),
        {precision: key.sha256() for precision, key in keys.items()},
        {precision: round(latency.median_ms, 4) for precision, latency in latencies.items()},
    )


def write_choice(cache: PlanCache, card: ModelCard, batch: int, choice: Choice) -> Path:
    path = _path(cache, card, batch)
    write_whole(path, (json.dumps(asdict(choice), indent=2) + '\n').encode())
    return path


def read_choice(
    cache: PlanCache, card: ModelCard, batch: int, keys: Mapping[Precision, PlanKey]
) -> Precision | None:
    """What was measured to be fastest; None where that was never done, or not on this machine.

    keys: of the plans as they would be built now.
    """
    try:
        raw = json.loads(_path(cache, card, batch).read_text(encoding='utf-8'))
        choice = Choice(**raw)
        known = {precision: key.sha256() for precision, key in keys.items()}
        return choice.precision if choice.keys == known else None
    except (OSError, ValueError, TypeError):
        return None  # it is only a measurement: without it, it is made again


def _path(cache: PlanCache, card: ModelCard, batch: int) -> Path:
    return cache.folder / f'best-{slug(card.name)}-b{batch}.json'


def _batch(pictures: UInt8, engine: Engine) -> UInt8:
    count = engine.info.input_shape[0]
    return np.ascontiguousarray(np.resize(pictures, (count, *pictures.shape[1:])))
