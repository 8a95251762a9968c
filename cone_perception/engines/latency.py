"""Time that engines take for a batch, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cone_perception.engines import Engine
from cone_perception.types import UInt8

WARM_UP_RUNS = 20
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the picture in host memory to the raw output in host memory."""

    median_ms: float
    p99_ms: float
    runs: int


def measure_latencies(engines: Sequence[Engine], pictures: UInt8, runs: int) -> list[Latency]:
    """Latency of each engine, see `measure_rounds`."""
    return [
        Latency(float(np.median(times_ms)), float(np.percentile(times_ms, 99)), runs)
        for times_ms in measure_rounds(engines, pictures, runs).T
    ]


def measure_rounds(engines: Sequence[Engine], pictures: UInt8, rounds: int) -> Float64:
    """Time engines in turns, so that a clock or another program that changes hits them alike.

    pictures: (N, H, W, 3) uint8; as many as a batch takes are run, repeated where there are fewer.
    Returns milliseconds, (rounds, engines). Each round begins with another engine.
    """
    batches = [_batch(pictures, engine) for engine in engines]
    for engine, batch in zip(engines, batches, strict=True):
        for _ in range(WARM_UP_RUNS):
            engine.run(batch)
    times_ms = np.zeros((rounds, len(engines)))
    for number, of_round in enumerate(times_ms):
        for index in np.roll(range(len(engines)), -number):
            started = time.perf_counter_ns()
            engines[index].run(batches[index])
            of_round[index] = (time.perf_counter_ns() - started) / 1e6
    return times_ms


def _batch(pictures: UInt8, engine: Engine) -> UInt8:
    count = engine.info.input_shape[0]
    return np.ascontiguousarray(np.resize(pictures, (count, *pictures.shape[1:])))
