"""Where the network runs: on this machine's NVIDIA GPU where that is possible, else on its CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from cone_perception.engines import Engine
from cone_perception.engines.build_command import (
    build_engines,
    open_plan,
    remember_best,
)
from cone_perception.engines.cpu.fastest import open_fastest
from cone_perception.engines.cpu.open import open_by_precision
from cone_perception.engines.tensorrt.fastest import buildable_precisions, read_choice
from cone_perception.engines.tensorrt.gpu import Gpu, read_gpu
from cone_perception.engines.tensorrt.plans import PlanCache, cache_folder
from cone_perception.engines.tensorrt.provide import (
    BuildEvent,
    choose_provider,
    ignore,
    import_provider,
    network_for_gpu,
    plan_key,
)
from cone_perception.errors import EngineError, EngineLostError, ModelError
from cone_perception.model_card import Bundle
from cone_perception.settings import DetectorSettings
from cone_perception.types import CpuRuntime, GpuRuntime, GpuRuntimeChoice, Precision, RuntimeChoice

LEAST_CAPABILITY = (7, 5)
"""Of a GPU: TensorRT 10 and our kernels start with Turing."""


@dataclass(frozen=True, slots=True)
class PlacedEngine:
    """An engine that may drive.

    plan: file of the compiled engine; None on the CPU.
    why_cpu: why `device: auto` took the CPU; empty on a GPU, and where the CPU was asked for.
    """

    engine: Engine
    plan: Path | None = None
    why_cpu: str = ''


def open_engine(
    bundle: Bundle,
    runtime: RuntimeChoice = 'auto',
    batch: int = 1,
    threads: int = 0,
    precision: Precision | None = None,
    streams: int = 1,
) -> Engine:
    """Load the bundle's network into the engine `name` and check it against the card.

    auto: OpenVINO on the CPU. batch: pictures per run. threads: 0 leaves the choice to the runtime.
    precision: None takes INT8 where the bundle has it, else FP32, else FP16; with TensorRT what was
    measured to be fastest on this GPU, else the same with FP16 before FP32.
    streams: see `open_network`.
    Raises ModelError when file and card disagree, EngineError when the runtime is missing or fails.
    """
    if runtime not in get_args(RuntimeChoice):
        known = ', '.join(get_args(RuntimeChoice))
        raise EngineError(f'engine {runtime!r} is not known; choose one of {known}')
    if runtime in get_args(GpuRuntime):
        from cone_perception.engines.tensorrt.engine import open_tensorrt

        return open_tensorrt(bundle, batch, precision, cast(GpuRuntime, runtime))
    on_cpu: CpuRuntime = 'onnxruntime' if runtime == 'onnxruntime' else 'openvino'
    return open_by_precision(bundle, on_cpu, batch, threads, precision, streams)


def place_network(
    bundle: Bundle,
    settings: DetectorSettings,
    on_event: Callable[[BuildEvent], None] = ignore,
    cancelled: Callable[[], bool] = lambda: False,
    streams: int = 1,
) -> PlacedEngine:
    """Open the bundle's network where `device` and `engine` say; it is built if need be.

    on_event: told about a build. cancelled: polled during it. streams: runs at the same time that
    the caller can make use of, on the CPU. With `device: auto` alone, whatever
    keeps the GPU from being used leads to the CPU and is named in `why_cpu`; a lost GPU does not:
    EngineLostError. Else raises EngineError or ModelError.
    """
    if settings.runs_on_cpu:
        return PlacedEngine(_open_on_cpu(bundle, settings, streams, cancelled))
    try:
        return _open_on_gpu(bundle, settings, on_event, cancelled)
    except EngineLostError:
        raise
    except (EngineError, ModelError) as error:
        if cancelled():
            raise
        if settings.gpu_asked_by:
            raise EngineError(f'{settings.gpu_asked_by} is set, but {error}') from error
        engine = _open_on_cpu(bundle, settings, streams, cancelled)
        return PlacedEngine(engine, why_cpu=str(error))


def require_gpu(choice: GpuRuntimeChoice = 'auto') -> tuple[GpuRuntime, Gpu]:
    """The compiler and the GPU to use. Raises EngineError that says what is missing for it."""
    gpu = read_gpu()
    major, _, minor = gpu.compute_capability.partition('.')
    if (int(major), int(minor)) < LEAST_CAPABILITY:
        raise EngineError(
            f'{gpu.name} has compute capability {gpu.compute_capability}, but TensorRT needs '
            f'{".".join(map(str, LEAST_CAPABILITY))} at least.'
        )
    provider = choose_provider(choice)
    import_provider(provider)
    try:
        importlib.import_module('pycuda.driver')
    except ImportError as error:
        raise EngineError(
            f'pycuda cannot be imported ({error}). '
            "Install it with: pip install 'cone_perception[tensorrt]'"
        ) from error
    return provider, gpu


def _open_on_cpu(
    bundle: Bundle, settings: DetectorSettings, streams: int, cancelled: Callable[[], bool]
) -> Engine:
    runtime: CpuRuntime = 'onnxruntime' if settings.engine == 'onnxruntime' else 'openvino'
    batch, threads = settings.batch, settings.threads
    if settings.precision == 'best' and runtime == 'openvino':
        return open_fastest(bundle, batch, threads, streams, cache_folder(), cancelled)
    precision = None if settings.precision == 'best' else settings.precision
    return open_by_precision(bundle, runtime, batch, threads, precision, streams)


def _open_on_gpu(
    bundle: Bundle,
    settings: DetectorSettings,
    on_event: Callable[[BuildEvent], None],
    cancelled: Callable[[], bool],
) -> PlacedEngine:
    from cone_perception.engines.tensorrt.engine import open_tensorrt

    named = settings.engine in get_args(GpuRuntime)
    provider, gpu = require_gpu(cast(GpuRuntimeChoice, settings.engine) if named else 'auto')
    cache = PlanCache(cache_folder())

    def warn(text: str) -> None:
        on_event(BuildEvent('warning', text))

    def tell(text: str) -> None:
        on_event(BuildEvent('built', text))

    precisions = buildable_precisions(bundle, settings.batch, settings.precision, warn)
    precision = precisions[0]
    if len(precisions) > 1:
        keys = {
            p: plan_key(network_for_gpu(bundle, p, settings.batch), provider, gpu)
            for p in precisions
        }
        fastest: Precision | None = read_choice(cache, bundle.card, settings.batch, keys)
        if fastest is None:
            built = build_engines(
                bundle,
                precisions,
                settings.batch,
                provider,
                cache,
                on_event,
                open_plan,
                build=settings.build,
                retry=False,
                cancelled=cancelled,
                say=tell,
            )
            fastest = remember_best(bundle, settings.batch, cache, built, tell).precision
        precision = fastest
    engine = open_tensorrt(
        bundle, settings.batch, precision, provider, settings.build, on_event, cancelled, gpu
    )
    return PlacedEngine(engine, engine.plan)
