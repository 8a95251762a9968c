"""Opens a bundle's network on this machine's NVIDIA GPU where that is possible, else on its CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from cone_perception.engines import Engine
from cone_perception.engines.cpu.open import CpuOrder, open_fastest
from cone_perception.engines.cuda.device import import_pycuda
from cone_perception.engines.events import BuildEvent, ignore, print_event, print_warning
from cone_perception.engines.tensorrt.engine import TensorRtEngine
from cone_perception.engines.tensorrt.fastest import fastest_order
from cone_perception.engines.tensorrt.gpu import import_runtime
from cone_perception.engines.tensorrt.order import BuildPolicy, make_orders
from cone_perception.engines.tensorrt.provide import open_ordered
from cone_perception.errors import EngineError, EngineLostError, ModelError
from cone_perception.files import cache_folder
from cone_perception.model_card import Bundle
from cone_perception.settings import DetectorSettings
from cone_perception.types import (
    CpuRuntime,
    GpuRuntime,
    GpuRuntimeChoice,
    Precision,
    PrecisionChoice,
    RuntimeChoice,
)


@dataclass(frozen=True, slots=True)
class PlacedEngine:
    """An engine that may drive.

    plan: file of the compiled engine; None on the CPU.
    warnings: why `device: auto` takes the CPU, and what `open_fastest` warns of there.
    """

    engine: Engine
    plan: Path | None = None
    warnings: tuple[str, ...] = ()


def open_engine(
    bundle: Bundle,
    runtime: RuntimeChoice = 'auto',
    batch: int = 1,
    threads: int = 0,
    precision: Precision | None = None,
    streams: int = 1,
) -> Engine:
    """Open the bundle's network in a runtime, checked as the one that drives; warns on stderr.

    runtime: auto is OpenVINO on the CPU. batch, threads, streams: see `CpuOrder`. precision: None
    takes INT8 where the bundle has it, else FP32, else FP16; on the GPU the fastest that passed the
    gate, as the node does. Raises as `place_network`.
    """
    if runtime not in get_args(RuntimeChoice):
        known = ', '.join(get_args(RuntimeChoice))
        raise EngineError(f'engine {runtime!r} is not known; choose one of {known}')
    if runtime in get_args(GpuRuntime):
        provider, _ = import_runtime(cast(GpuRuntime, runtime))
        policy = BuildPolicy(retry=False, on_event=print_event)
        return _open_on_gpu(bundle, precision or 'best', batch, policy, provider)
    order = CpuOrder(bundle, _cpu_runtime(runtime), precision, batch, threads, streams)
    return open_fastest(order, cache_folder('engines'), print_warning)


def place_network(
    bundle: Bundle,
    settings: DetectorSettings,
    on_event: Callable[[BuildEvent], None] = ignore,
    cancelled: Callable[[], bool] = lambda: False,
    streams: int = 1,
    measure: bool = True,
) -> PlacedEngine:
    """Open the bundle's network where `device` and `engine` say; it is built if need be.

    on_event: told about a build. cancelled: polled during it. streams: runs at the same time that
    the caller can make use of, on the CPU. measure: False takes INT8 on a CPU where `precision` is
    best, as `evaluate` does. With `device: auto` alone, whatever keeps the GPU from being used
    leads to the CPU and is among the warnings; a lost GPU does not: EngineLostError. Else raises
    EngineError or ModelError.
    """
    warnings: list[str] = []
    if not settings.runs_on_cpu:
        policy = BuildPolicy(settings.build, retry=False, on_event=on_event, cancelled=cancelled)
        named = settings.engine in get_args(GpuRuntime)
        provider: GpuRuntimeChoice = cast(GpuRuntime, settings.engine) if named else 'auto'
        try:
            engine = _open_on_gpu(bundle, settings.precision, settings.batch, policy, provider)
            return PlacedEngine(engine, engine.plan)
        except EngineLostError:
            raise
        except (EngineError, ModelError) as error:
            if cancelled():
                raise
            if settings.gpu_asked_by:
                raise EngineError(f'{settings.gpu_asked_by} is set, but {error}') from error
            warnings.append(f'device: auto takes the CPU: {error}')
    precision = None if settings.precision == 'best' and not measure else settings.precision
    runtime = _cpu_runtime(settings.engine)
    order = CpuOrder(bundle, runtime, precision, settings.batch, settings.threads, streams)
    on_cpu = open_fastest(order, cache_folder('engines'), warnings.append, cancelled)
    return PlacedEngine(on_cpu, None, tuple(warnings))


def _cpu_runtime(choice: RuntimeChoice) -> CpuRuntime:
    return 'onnxruntime' if choice == 'onnxruntime' else 'openvino'


def _open_on_gpu(
    bundle: Bundle,
    precision: PrecisionChoice,
    batch: int,
    policy: BuildPolicy,
    choice: GpuRuntimeChoice,
) -> TensorRtEngine:
    orders = make_orders(bundle, precision, batch, policy, choice)
    import_pycuda()
    return open_ordered(fastest_order(orders, lambda text: policy.tell('built', text)))
