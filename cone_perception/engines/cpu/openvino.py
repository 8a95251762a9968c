"""OpenVINO on the CPU: the fast way to run INT8 without a GPU."""

from __future__ import annotations

import contextlib
import io
import threading
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import openvino as ov
import openvino.properties as properties
import openvino.properties.hint as hint
from openvino.preprocess import ColorFormat, PrePostProcessor

from cone_perception.engines import EngineInfo, class_names_from
from cone_perception.errors import EngineError, ModelError
from cone_perception.model_card import NetworkFile, Preprocessing
from cone_perception.types import Arithmetic, Float32, UInt8

_first_run = threading.Lock()
"""OpenVINO's binding fills tables at the first run. Two threads that come there at once wait for
each other for ever: one has the table and wants Python's lock, the other the reverse (2026.4)."""


class OpenVinoEngine:
    """Runs an ONNX file in OpenVINO; scaling and colour order are compiled into the graph."""

    def __init__(
        self,
        path: Path,
        network: NetworkFile,
        preprocessing: Preprocessing,
        threads: int,
        arithmetic: Arithmetic = 'float32',
        streams: int = 1,
        compiled: bytes = b'',
        lone: bool = True,
    ) -> None:
        """compiled: of `export`; refused if another release or CPU made it: `path` is read then.

        lone: with several streams, and threads for them, compile it for one run on all threads too.
        """
        core = ov.Core()
        config: dict[str, object] = {
            # Never OpenVINO's own choice: results would depend on the CPU without a word.
            hint.inference_precision: ov.Type.bf16 if arithmetic == 'bfloat16' else ov.Type.f32,
            hint.performance_mode: hint.PerformanceMode.LATENCY,
        }
        if threads:
            config[properties.inference_num_threads] = threads
        if streams > 1:
            config[properties.num_streams] = streams
        kept = _import(core, compiled, config)
        model, names = (kept, '') if kept else _compile(core, path, preprocessing, config)
        batch, height_px, width_px, channels = model.input().shape
        self._compiled = model
        self._has_run = False
        self._idle: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(self._compiled.create_infer_request())
        self.info = EngineInfo(
            runtime=f'OpenVINO {ov.__version__.split("-")[0]}',
            device='CPU',
            precision=network.precision,
            input_shape=(batch, channels, height_px, width_px),
            output_shape=tuple(model.output().shape),
            network_sha256=network.sha256,
            class_names=class_names_from(names),
            arithmetic=arithmetic,
            at_once=streams,
        )
        self._lone: OpenVinoEngine | None = None
        if lone and streams > 1 and model.get_property(properties.inference_num_threads) > 1:
            blob = compiled if kept else self.export()
            rest = preprocessing, threads, arithmetic, 1, blob
            self._lone = OpenVinoEngine(path, network, *rest)

    @property
    def lone(self) -> OpenVinoEngine:
        return self._lone or self

    def export(self) -> bytes:
        """The compiled network, for this release of OpenVINO on this kind of CPU."""
        stream = io.BytesIO()
        self._compiled.export_model(stream)
        return stream.getvalue()

    def run(self, pictures: UInt8) -> Float32:
        with contextlib.nullcontext() if self._has_run else _first_run:
            request = self._idle.get()
            try:
                request.infer([pictures], share_inputs=True)
                answer = np.array(request.get_output_tensor().data, np.float32)
                self._has_run = True
                return answer
            except RuntimeError as error:
                raise EngineError(f'OpenVINO failed: {_first_line(error)}') from error
            finally:
                self._idle.put(request)

    def close(self) -> None:
        if self._lone:
            self._lone.close()
        del self._idle, self._compiled, self._lone


def _import(core: ov.Core, compiled: bytes, config: dict[str, object]) -> ov.CompiledModel | None:
    """None where there is nothing, or nothing that OpenVINO takes."""
    with contextlib.suppress(RuntimeError, ValueError):
        model = core.import_model(compiled, 'CPU', config) if compiled else None
        if model and len(model.input().shape) == 4:
            return model
    return None


def _compile(
    core: ov.Core, path: Path, preprocessing: Preprocessing, config: dict[str, object]
) -> tuple[ov.CompiledModel, str]:
    """The network, and its class names as the ONNX file has them.

    Raises ModelError for a file that cannot be read, EngineError for one not to be compiled.
    """
    try:
        model = core.read_model(path)
        _ = model.input().shape, model.output().shape  # a dynamic one has none
        metadata = model.get_rt_info()
        names = model.get_rt_info(['framework', 'names']).value if 'framework' in metadata else ''
    except RuntimeError as error:
        raise ModelError(f'{path} cannot be read as ONNX: {_first_line(error)}') from error
    try:
        # It takes (B, H, W, 3) uint8 BGR instead of (B, 3, H, W) float32.
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout('NHWC'))
        steps.input().tensor().set_color_format(ColorFormat.BGR)
        steps.input().model().set_layout(ov.Layout('NCHW'))
        convert = steps.input().preprocess().convert_element_type(ov.Type.f32)
        if preprocessing.colour_order == 'rgb':
            convert.convert_color(ColorFormat.RGB)
        convert.scale(1 / preprocessing.scale)
        return core.compile_model(steps.build(), 'CPU', config), names
    except RuntimeError as error:
        raise EngineError(f'OpenVINO cannot compile {path.name}: {_first_line(error)}') from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
