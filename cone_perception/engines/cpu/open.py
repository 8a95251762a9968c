"""One network of a bundle, opened in OpenVINO or ONNX Runtime."""

from __future__ import annotations

from cone_perception.engines import Engine, check_against_card
from cone_perception.errors import EngineError, ModelError, told_as
from cone_perception.model_card import Bundle, NetworkFile
from cone_perception.types import Arithmetic, CpuRuntime, Precision


def open_network(
    bundle: Bundle,
    network: NetworkFile,
    runtime: CpuRuntime = 'openvino',
    threads: int = 0,
    arithmetic: Arithmetic = 'float32',
    streams: int = 1,
    compiled: bytes = b'',
) -> Engine:
    """Load one network of the bundle, whichever it is, and compare it with the model card.

    arithmetic: bfloat16 only with OpenVINO, on a CPU that computes it. streams: of OpenVINO, so
    many runs at the same time share the threads. compiled: of OpenVINO, see its engine.
    Raises ModelError when file and card disagree, EngineError when the runtime is missing or fails.
    """
    path = bundle.checked_path(network)
    engine: Engine
    advice = "Install it with: pip install 'cone_perception[cpu]'"
    missing = f'the runtime of engine {runtime!r} is not installed'
    with told_as(EngineError, missing, ImportError, advice=advice):
        if runtime == 'openvino':
            from cone_perception.engines.cpu.openvino import OpenVinoEngine

            engine = OpenVinoEngine(
                path, network, bundle.card.preprocessing, threads, arithmetic, streams, compiled
            )
        else:
            from cone_perception.engines.cpu.onnxruntime import OnnxRuntimeEngine

            engine = OnnxRuntimeEngine(path, network, bundle.card.preprocessing, threads)
    try:
        check_against_card(engine.info, bundle, str(path), network.batch)
    except ModelError:
        engine.close()
        raise
    return engine


def network_of(bundle: Bundle, precision: Precision | None, batch: int) -> NetworkFile:
    """Find the bundle's network for CPUs of a precision.

    precision: None takes INT8 where the bundle has it, else FP32, else FP16.
    Raises ModelError when the bundle has none.
    """
    if precision is None:
        kinds = {(n.precision, n.encoding) for n in bundle.card.networks}
        quantised = ('int8', 'uint8') in kinds
        precision = 'int8' if quantised else 'fp32' if ('fp32', 'float') in kinds else 'fp16'
    return bundle.network(precision, 'uint8' if precision == 'int8' else 'float', batch)


def computes_bfloat16() -> bool:
    """Tell whether this CPU has instructions for bfloat16; elsewhere it is imitated, and slow."""
    import openvino

    return 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
