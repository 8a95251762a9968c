"""Engines run a network on a batch of pictures: the one seam where hardware differs."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cone_perception.engines.decode import read_layout
from cone_perception.errors import ModelError
from cone_perception.model_card import Bundle
from cone_perception.preprocess import View
from cone_perception.types import Arithmetic, CameraPicture, Detections, Float32, Precision, UInt8


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts of an engine: its network, its runtime, its device.

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
class SharedEngine(Engine, Protocol):
    """An engine whose runs share the processor, so that one by itself leaves a part of it idle."""

    @property
    def lone(self) -> Engine:
        """The same network on the whole processor, one run at a time; itself where that is no gain.

        For a run beside which there is no other. Closed with this engine.
        """
        ...


@runtime_checkable
class FrameEngine(Engine, Protocol):
    """An engine that takes pictures as the camera sent them, letterboxes and decodes by itself."""

    @property
    def encodings(self) -> frozenset[str]:
        """Encodings of sensor_msgs/Image that `detect` takes; bgr8 is among them."""
        ...

    def detect(
        self,
        pictures: Sequence[CameraPicture],
        views: Sequence[View],
        thresholds: Float32,
        nms_iou: float,
    ) -> list[Detections]:
        """Find what is in up to a batch of views: network pixels, best score first.

        pictures: of each view; the same object several times is one picture. As View.apply, run and
        decode.decode together; thresholds and nms_iou as there. May be called from two threads at
        once. Raises EngineError, EngineLostError or ModelError.
        """
        ...


def lone_of(engine: Engine) -> Engine:
    """What runs a batch by itself soonest: the engine, or the one it has for that."""
    return engine.lone if isinstance(engine, SharedEngine) else engine


def class_names_from(metadata: str) -> tuple[str, ...]:
    """Class names that Ultralytics writes into an ONNX file: "{0: 'blue_cone', ...}"; or none."""
    try:
        names = ast.literal_eval(metadata) if metadata else {}
        return tuple(str(names[index]) for index in range(len(names)))
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise ModelError(
            f'the class names written in the network are not readable: {metadata!r:.80}'
        ) from error


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
