"""The things that travel from station to station: a camera's picture in, the cones found in it out.

The words for where a network runs, and in what precision, are here too: settings, model cards,
options and engines all take them from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

Device = Literal['auto', 'cuda', 'cpu']
"""Where a network runs. auto: on the GPU where that is possible, else on the CPU."""
CpuRuntime = Literal['openvino', 'onnxruntime']
GpuRuntime = Literal['tensorrt', 'tensorrt_rtx']
"""It compiles a network and runs it; option `--provider`, entry `provider` of a passport."""
RuntimeChoice = Literal['auto', GpuRuntime, CpuRuntime]
GpuRuntimeChoice = Literal['auto', GpuRuntime]
"""auto: TensorRT where it is installed, else TensorRT-RTX."""
BuildChoice = Literal['auto', 'never']
"""never: an engine that would have to be compiled is refused."""

Precision = Literal['fp32', 'fp16', 'int8']
PrecisionChoice = Literal['best', 'int8', 'fp16', 'fp32']
"""best: the fastest of those that passed the gate."""
OutputLayout = Literal['anchors', 'end_to_end']
"""anchors: [B, 4 + classes, A], boxes as centre and size, overlaps left in (YOLO11, YOLO12).
end_to_end: [B, N, 6], left, top, right, bottom, score, class, no overlaps (YOLO26, YOLOv10)."""

ViewName = Literal['whole', 'tile', 'horizon', 'strip']
"""What a network picture shows of the source, see preprocess.py."""
Views = Literal['whole', 'whole+horizon', 'whole+horizon+strip']
ViewsChoice = Literal['auto', 'whole', 'whole+horizon', 'whole+horizon+strip']
"""auto: what the model card says."""

RangeSource = Literal['none', 'stereo', 'height', 'ground']
"""What says how far away a cone stands: the other eye, the height of its box, or where it meets the
ground. none: nothing does, so its position is not published."""
RANGE_SOURCES: tuple[RangeSource, ...] = get_args(RangeSource)

Encoding = Literal['float', 'uint8', 'int8']
"""How activations are written in a file: uint8 with zero point 128 for OpenVINO, int8 with zero
point 0 for TensorRT. Both are the same real grid. float: not quantised."""
Arithmetic = Literal['float32', 'bfloat16']
"""What a CPU computes in, wherever the network is not INT8; the file is the same."""


def _check(
    name: str, array: object, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> None:
    """Raise ValueError unless `array` has this dtype and shape (None: any length)."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = getattr(array, 'dtype', type(array).__name__)
        raise ValueError(f'{name} must be an array of {dtype.__name__}, got {found}')
    fits = len(shape) == array.ndim and all(
        want is None or want == length for want, length in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = tuple('any' if want is None else want for want in shape)
        raise ValueError(f'{name} must have shape {wanted}, got {array.shape}')


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one camera, of at least one pixel.

    bgr: (H, W, 3) uint8. stamp_ns: time of exposure, of whatever clock the source uses.
    frame_id: coordinate frame of the camera, or empty. source: name of camera, file or topic.
    """

    bgr: UInt8
    stamp_ns: int = 0
    frame_id: str = ''
    source: str = ''

    def __post_init__(self) -> None:
        _check('bgr', self.bgr, np.uint8, (None, None, 3))
        if 0 in self.bgr.shape:
            raise ValueError(f'a frame needs at least one pixel, got {self.bgr.shape}')

    @property
    def height_px(self) -> int:
        return int(self.bgr.shape[0])

    @property
    def width_px(self) -> int:
        return int(self.bgr.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class CameraPicture:
    """One picture as the camera's driver sent it, named as in sensor_msgs/Image.

    data: (N,) uint8, rows of `step` bytes each, the last one without its padding or with it.
    encoding: of sensor_msgs/image_encodings. width, height: pixels. step: bytes per row.
    """

    data: UInt8
    encoding: str
    width: int
    height: int
    step: int
    is_bigendian: int = 0

    def __post_init__(self) -> None:
        _check('data', self.data, np.uint8, (None,))
        if min(self.width, self.height) < 1:
            raise ValueError(f'a picture needs a pixel, got {self.width}x{self.height}')

    @property
    def height_px(self) -> int:
        return self.height

    @property
    def width_px(self) -> int:
        return self.width

    @classmethod
    def of_bgr(cls, bgr: UInt8) -> CameraPicture:
        """From (H, W, 3) uint8: no copy where the rows lie one after the other, padded or not."""
        height, width = bgr.shape[:2]
        step = bgr.strides[0]
        if bgr.strides[1:] != (3, 1) or step < width * 3:
            bgr = np.ascontiguousarray(bgr)
            step = width * 3
        length = (height - 1) * step + width * 3
        data = np.lib.stride_tricks.as_strided(bgr, (length,), (1,), writeable=False)
        return cls(data, 'bgr8', width, height, step)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Cones found in one picture, best score first.

    xyxy_px: (N, 4) float32, source-image pixels: left, top, right, bottom. score: (N,) float32,
    0..1. class_id: (N,) int64, index into the model card's class names. band_px: row of the
    picture around which the second look lay; None where there was none. least: (N,) float32, score
    from which a box counts in the view that showed it; None: all count. class_score: (N, classes)
    float32, the network's score of every class; None where it tells only the best one's.
    """

    xyxy_px: Float32
    score: Float32
    class_id: Int64
    band_px: float | None = None
    least: Float32 | None = None
    class_score: Float32 | None = None

    def __post_init__(self) -> None:
        n = len(self.xyxy_px)
        _check('xyxy_px', self.xyxy_px, np.float32, (None, 4))
        _check('score', self.score, np.float32, (n,))
        _check('class_id', self.class_id, np.int64, (n,))
        if self.least is not None:
            _check('least', self.least, np.float32, (n,))
        if self.class_score is not None:
            _check('class_score', self.class_score, np.float32, (n, None))

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: Any) -> Detections:
        """Those that a mask, slice or index array selects."""
        least, class_score = (
            None if told is None else told[index] for told in (self.least, self.class_score)
        )
        own = self.xyxy_px[index], self.score[index], self.class_id[index]
        return Detections(*own, self.band_px, least, class_score)

    def above(self, thresholds: Float32) -> Detections:
        """Those that reach the least score of their class. thresholds: (classes,) float32."""
        return self[self.score >= thresholds[self.class_id]]

    @property
    def counts(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which of them reach their `least`."""
        return np.ones(len(self), bool) if self.least is None else self.score >= self.least

    @property
    def height_px(self) -> Float32:
        """(N,) float32: heights of the boxes in source pixels."""
        return self.xyxy_px[:, 3] - self.xyxy_px[:, 1]

    @classmethod
    def joined(cls, parts: Sequence[Detections]) -> Detections:
        """All of one or more, one after the other.

        All tell their `least`, or none does; so with `class_score`.
        """
        joined: dict[str, Any] = {}
        for name in ('xyxy_px', 'score', 'class_id', 'least', 'class_score'):
            told = [getattr(part, name) for part in parts if getattr(part, name) is not None]
            joined[name] = np.concatenate(told) if told else None
        return cls(**joined)

    @classmethod
    def empty(cls) -> Detections:
        """No cones seen."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Where the cones of one picture stand: a row for each of its detections, in their order.

    xyz_m: (N, 3) float64, middle of the foot of the cone, where its axis meets the ground; NaN
    where it is not known. covariance_m2: (N, 3, 3) float64. source: (N,) int64, index into
    RANGE_SOURCES of what counted most. frame_id: of the coordinates: x forward, y left, z up for
    the car's; x right, y down, z forward for a camera's optical frame. counts: of this picture,
    what happened -> how often, as 'stereo', 'height', 'disagree'.
    """

    xyz_m: Float64
    covariance_m2: Float64
    source: Int64
    frame_id: str = ''
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.xyz_m)
        _check('xyz_m', self.xyz_m, np.float64, (None, 3))
        _check('covariance_m2', self.covariance_m2, np.float64, (n, 3, 3))
        _check('source', self.source, np.int64, (n,))

    def __len__(self) -> int:
        return len(self.xyz_m)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which of them have a position."""
        return self.source > 0
