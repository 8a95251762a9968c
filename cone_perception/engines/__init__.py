"""The one seam where hardware differs: an engine runs a network on a batch of pictures."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, get_args, runtime_checkable

from cone_perception.decode import read_layout
from cone_perception.errors import EngineError, ModelError
from cone_perception.model_card import Bundle, NetworkFile
from cone_perception.types import (
    Arithmetic,
    CameraPicture,
    Detections,
    Encoding,
    Float32,
    Precision,
    RuntimeChoice,
    UInt8,
)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine runs, and on what.

    runtime: name and version. device: as the runtime calls it.
    input_shape: (B, 3, H, W). output_shape: (B, 4 + classes, A) or (B, N, 6).
    network_sha256: of the file it loaded.
    class_names: as written in the network file itself; empty where it says nothing.
    arithmetic: of what is not INT8, on a CPU.
    at_once: so many threads may run it at the same time.
    """

    runtime: str
    device: str
    precision: Precision
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    network_sha256: str
    class_names: tuple[str, ...] = ()
    arithmetic: Arithmetic = 'float32'
    at_once: int = 1

    @property
    def computes_in(self) -> str:
        """For people: int8, fp16, bfloat16, or int8 and bfloat16."""
        if self.arithmetic == 'float32':
            return self.precision
        return f'int8 and {self.arithmetic}' if self.precision == 'int8' else self.arithmetic


class Engine(Protocol):
    """Runs a network on a batch. Knows nothing about cones."""

    @property
    def info(self) -> EngineInfo: ...

    def run(self, pictures: UInt8) -> Float32:
        """Run one batch.

        pictures: (B, H, W, 3) uint8 BGR, letterboxed. Returns the network's output, float32, which
        is the caller's own. Raises EngineError.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds. It may not be run afterwards."""
        ...


@runtime_checkable
class FrameEngine(Engine, Protocol):
    """An engine that takes pictures as the camera sent them, letterboxes and decodes by itself."""

    @property
    def encodings(self) -> frozenset[str]:
        """Of sensor_msgs/Image: those that `detect` takes; bgr8 is among them."""
        ...

    def detect(
        self, pictures: Sequence[CameraPicture], thresholds: Float32, nms_iou: float
    ) -> list[Detections]:
        """Find what is in up to a batch of pictures: network pixels, best score first.

        As letterbox, run and decode.decode together; thresholds and nms_iou as there. May be called
        from two threads at once. Raises EngineError, EngineLostError or ModelError.
        """
        ...


def open_engine(
    bundle: Bundle,
    name: RuntimeChoice = 'auto',
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
    if name == 'tensorrt':
        from cone_perception.engines.tensorrt.engine import open_tensorrt

        return open_tensorrt(bundle, batch, precision)
    precision = precision or _cpu_precision(bundle)
    encoding: Encoding = 'uint8' if precision == 'int8' else 'float'
    network = bundle.network(precision, encoding, batch)
    return open_network(bundle, network, name, threads, streams=streams)


def open_network(
    bundle: Bundle,
    network: NetworkFile,
    name: RuntimeChoice = 'auto',
    threads: int = 0,
    arithmetic: Arithmetic = 'float32',
    streams: int = 1,
    compiled: bytes = b'',
) -> Engine:
    """Load one network of the bundle, whichever it is, as `open_engine` loads what drives.

    arithmetic: bfloat16 only with OpenVINO, on a CPU that computes it. streams: of OpenVINO, so
    many runs at the same time share the threads. compiled: of OpenVINO, see its engine.
    """
    path = bundle.checked_path(network)
    engine: Engine
    try:
        if name in ('auto', 'openvino'):
            from cone_perception.engines.cpu.openvino import OpenVinoEngine

            engine = OpenVinoEngine(
                path, network, bundle.card.preprocessing, threads, arithmetic, streams, compiled
            )
        elif name == 'onnxruntime':
            from cone_perception.engines.cpu.onnxruntime import OnnxRuntimeEngine

            engine = OnnxRuntimeEngine(path, network, bundle.card.preprocessing, threads)
        else:
            raise EngineError(
                f'engine {name!r} is not known; choose one of {", ".join(get_args(RuntimeChoice))}'
            )
    except ImportError as error:
        raise EngineError(
            f'the runtime of engine {name!r} is not installed ({error}). '
            "Install it with: pip install 'cone_perception[cpu]'"
        ) from error
    try:
        check_against_card(engine.info, bundle, str(path), network.batch)
    except ModelError:
        engine.close()
        raise
    return engine


def class_names_from(metadata: str) -> tuple[str, ...]:
    """Class names that Ultralytics writes into an ONNX file: "{0: 'blue_cone', ...}"; or none."""
    try:
        names = ast.literal_eval(metadata) if metadata else {}
        return tuple(str(names[index]) for index in range(len(names)))
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise ModelError(
            f'the class names written in the network are not readable: {metadata!r:.80}'
        ) from error


def _cpu_precision(bundle: Bundle) -> Precision:
    kinds = {(n.precision, n.encoding) for n in bundle.card.networks}
    if ('int8', 'uint8') in kinds:
        return 'int8'
    return 'fp32' if ('fp32', 'float') in kinds else 'fp16'


def check_against_card(info: EngineInfo, bundle: Bundle, path: str, batch: int) -> None:
    """Raise ModelError when what was loaded from `path` is not what the bundle's card says."""
    card = bundle.card
    advice = 'File and card come from different exports: export again.'
    expected = (batch, 3, card.height_px, card.width_px)
    if info.input_shape != expected:
        raise ModelError(f'{path} takes {info.input_shape}, but its card says {expected}. {advice}')
    layout = read_layout(info.output_shape, len(card.class_names))
    if layout != card.output_layout or info.output_shape[0] != batch:
        raise ModelError(
            f'{path} outputs {info.output_shape} ({layout}), but its card says '
            f'{card.output_layout} with batch {batch}. {advice}'
        )
    if info.class_names and info.class_names != card.class_names:
        raise ModelError(
            f'{path} was trained on the classes {", ".join(info.class_names)}, but its card says '
            f'{", ".join(card.class_names)}. {advice}'
        )
