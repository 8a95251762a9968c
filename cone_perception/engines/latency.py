"""Time that engines take for a batch, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cone_perception.engines import Engine
from cone_perception.types import UInt8

WARM_UP_RUNS = 20


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the picture in host memory to the raw output in host memory."""

    median_ms: float
    p99_ms: float
    runs: int


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


def _batch(pictures: UInt8, engine: Engine) -> UInt8:
    count = engine.info.input_shape[0]
    return np.ascontiguousarray(np.resize(pictures, (count, *pictures.shape[1:])))
