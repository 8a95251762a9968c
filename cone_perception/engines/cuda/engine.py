"""An engine on an NVIDIA GPU: the camera's bytes in, boxes out, whatever computes in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cone_perception.decode import decode
from cone_perception.engines import EngineInfo
from cone_perception.engines.cuda.device import CameraJob, CudaDevice
from cone_perception.engines.cuda.request import FORMATS, guess_layout, read_answer, upload_bytes
from cone_perception.engines.cuda.slot import Network
from cone_perception.engines.cuda.worker import CudaWorker
from cone_perception.errors import EngineError
from cone_perception.model_card import NetworkFile, Preprocessing
from cone_perception.types import CameraPicture, Detections, Float32, UInt8

LIMIT_S = 2.0
"""A frame takes about a millisecond: after this long the GPU hangs."""


class CudaEngine:
    """An Engine and a FrameEngine. detect and run may be called from several threads.

    Two calls at once overlap: the pictures of one go up while those of the other are computed.
    overflows: pictures with more boxes than the GPU's lists hold, decoded on the CPU instead.
    """

    encodings = frozenset(FORMATS)
    """Encodings of sensor_msgs/Image that detect takes as the camera sends them."""

    def __init__(
        self,
        load_network: Callable[[], Network],
        preprocessing: Preprocessing,
        network: NetworkFile,
        runtime: str,
        class_names: tuple[str, ...] = (),
        limit_s: float = LIMIT_S,
        use_graph: bool = True,
    ) -> None:
        """load_network: called in the engine's thread, with the context current.

        limit_s: a frame that takes longer raises EngineLostError. Raises EngineError when there is
        no GPU or a library is missing, and what load_network raises.
        """
        opened: list[CudaDevice] = []

        def open_device() -> CudaDevice:
            opened.append(CudaDevice(load_network, preprocessing, use_graph))
            return opened[0]

        self._worker = CudaWorker(open_device, limit_s)
        self._device = opened[0]
        self.overflows = 0
        self.info = EngineInfo(
            runtime=runtime,
            device=self._device.name,
            precision=network.precision,
            input_shape=self._device.network.input_shape,
            output_shape=self._device.network.output_shape,
            network_sha256=network.sha256,
            class_names=class_names,
        )
        self._layout = guess_layout(self.info.output_shape)

    @property
    def launches(self) -> str:
        """Launch of the work: 'one CUDA graph', or 'plain launches: ' and the reason."""
        return self._device.launches

    @property
    def reloads(self) -> int:
        """Number of times that the network was loaded again because memory had run out."""
        return self._worker.reloads

    def run(self, pictures: UInt8) -> Float32:
        prepared = [CameraPicture.of_bgr(picture) for picture in pictures]
        classes = self.info.output_shape[1] - 4 if self._layout == 'anchors' else 1
        answer = self._worker.run(CameraJob(prepared, np.ones(classes, np.float32), 1.0, raw=True))
        assert answer.output is not None
        return answer.output

    def detect(
        self, pictures: Sequence[CameraPicture], thresholds: Float32, nms_iou: float
    ) -> list[Detections]:
        batch = self.info.input_shape[0]
        if not 1 <= len(pictures) <= batch:
            raise ValueError(f'a batch takes 1 to {batch} pictures, got {len(pictures)}')
        if self._layout == 'anchors' and len(thresholds) != self.info.output_shape[1] - 4:
            raise EngineError(
                f'there are {len(thresholds)} thresholds for the '
                f'{self.info.output_shape[1] - 4} classes of the network'
            )
        upload_bytes(pictures)  # raises ImageError before anything is under way
        answer = self._worker.run(CameraJob(pictures, thresholds, nms_iou))
        found = []
        for index, one in enumerate(answer.answers):
            detections = read_answer(one, len(thresholds))
            if detections is None:
                self.overflows += 1
                assert answer.output is not None
                detections = decode(answer.output[index], self._layout, thresholds, nms_iou)
            found.append(detections)
        return found

    def close(self) -> None:
        self._worker.close()
