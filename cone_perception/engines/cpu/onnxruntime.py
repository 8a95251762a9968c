"""ONNX Runtime on the CPU: the reference for numbers, not for speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from cone_perception.engines import EngineInfo, class_names_from
from cone_perception.errors import EngineError, ModelError
from cone_perception.model_card import NetworkFile, Preprocessing
from cone_perception.types import Float32, UInt8


class OnnxRuntimeEngine:
    """Runs an ONNX file in ONNX Runtime; scaling and colour order are done in numpy."""

    def __init__(
        self, path: Path, network: NetworkFile, preprocessing: Preprocessing, threads: int
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # its exception classes share no public base but Exception
            raise ModelError(f'{path} cannot be read as ONNX: {error}') from error
        session = self._session
        network_input, network_output = session.get_inputs()[0], session.get_outputs()[0]
        if network_input.type != 'tensor(float)':
            raise ModelError(
                f'{path} takes {network_input.type}, as an export with half=True does. Export '
                'it without half, or make a bundle of the weights: cone-training export.'
            )
        self._input_name = network_input.name
        self._preprocessing = preprocessing
        self.info = EngineInfo(
            runtime=f'ONNX Runtime {ort.__version__}',
            device='CPU',
            precision=network.precision,
            input_shape=_fixed(network_input.shape, path),
            output_shape=_fixed(network_output.shape, path),
            network_sha256=network.sha256,
            class_names=class_names_from(
                session.get_modelmeta().custom_metadata_map.get('names', '')
            ),
        )

    def run(self, pictures: UInt8) -> Float32:
        planes = pictures[..., ::-1] if self._preprocessing.colour_order == 'rgb' else pictures
        scaled = planes.transpose(0, 3, 1, 2).astype(np.float32, order='C')
        scaled *= np.float32(self._preprocessing.scale)
        try:
            output = self._session.run(None, {self._input_name: scaled})[0]
        except Exception as error:
            raise EngineError(f'ONNX Runtime failed: {error}') from error
        return np.asarray(output, np.float32)

    def close(self) -> None:
        del self._session


def _fixed(shape: list[int | str], path: Path) -> tuple[int, ...]:
    if not all(isinstance(length, int) for length in shape):
        raise ModelError(
            f'{path} has a dynamic shape {shape}. Export it with a fixed size and batch.'
        )
    return tuple(int(length) for length in shape)
