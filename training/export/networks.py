"""Ultralytics weights -> FP32 networks -> every network of a bundle, with one set of steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from cone_perception.decode import read_layout
from cone_perception.engines import class_names_from
from cone_perception.errors import SourceError
from cone_perception.model_card import NetworkFile, file_sha256
from cone_perception.types import Encoding, OutputLayout, Precision
from training.export.half_precision import (
    OPSET,
    convert_to_half,
    decoding_nodes,
    store_weights_in_half,
)
from training.export.quantise import Steps, quantise

NETWORKS: dict[str, tuple[Precision, Encoding]] = {
    'fp32': ('fp32', 'float'),
    'fp16': ('fp16', 'float'),
    'int8-uint8': ('int8', 'uint8'),
    'int8-int8': ('int8', 'int8'),
}
"""Networks of a bundle: the reference, its twin for GPUs, INT8 for OpenVINO and for TensorRT."""

KEPT_METADATA = ('names', 'imgsz', 'stride', 'task', 'license', 'version')


@dataclass(frozen=True, slots=True)
class Originals:
    """FP32 networks by batch, of one set of weights, with their input and output."""

    by_batch: Mapping[int, onnx.ModelProto]
    class_names: tuple[str, ...]
    layout: OutputLayout
    height_px: int
    width_px: int

    @property
    def first(self) -> onnx.ModelProto:
        """The network for one picture: it is quantised and judged."""
        return self.by_batch[1]


def export_batches(
    weights: Path, height_px: int, width_px: int, layout: OutputLayout, batches: Sequence[int]
) -> Originals:
    """Export each batch from the weights: YOLO12's attention bakes it in.

    Raises SourceError when the weights have no head of this layout.
    """
    by_batch = {}
    for batch in (1, *sorted({*batches} - {1})):
        with TemporaryDirectory() as folder:
            path = export_onnx(weights, Path(folder), height_px, width_px, layout, batch)
            by_batch[batch] = onnx.load(path)
        _keep_metadata(by_batch[batch])
    metadata = {entry.key: entry.value for entry in by_batch[1].metadata_props}
    names = class_names_from(metadata.get('names', ''))
    output = by_batch[1].graph.output[0].type.tensor_type.shape.dim
    found = read_layout(tuple(dimension.dim_value for dimension in output), len(names))
    if found != layout:
        raise SourceError(f'{weights} puts out {found}, not {layout}: it has no such head.')
    return Originals(by_batch, names, layout, height_px, width_px)


def export_onnx(
    weights: Path,
    folder: Path,
    height_px: int,
    width_px: int,
    layout: OutputLayout,
    batch: int = 1,
) -> Path:
    """Export weights to FP32 ONNX in `folder`. Raises SourceError without a file of weights."""
    if not weights.is_file() or weights.suffix != '.pt':
        raise SourceError(f'{weights} is no file of weights (.pt). Give one that exists.')
    from ultralytics import YOLO

    copy = folder / weights.name  # Ultralytics writes beside the weights
    shutil.copy(weights, copy)
    exported = YOLO(copy, task='detect').export(
        format='onnx',
        imgsz=(height_px, width_px),
        batch=batch,
        opset=OPSET,
        simplify=True,
        nms=False if layout == 'end_to_end' else None,
        device='cpu',
    )
    return Path(exported)


def write_networks(
    folder: Path, originals: Originals, steps: Steps, wanted: Collection[str]
) -> Iterator[NetworkFile]:
    """Write FP32 and the wanted kinds, for every batch, all with the same steps."""
    for batch, original in originals.by_batch.items():
        for kind in NETWORKS:
            if kind == 'fp32' or kind in wanted:
                yield write_network(folder, original, steps, kind, batch)


def write_network(
    folder: Path, original: onnx.ModelProto, steps: Steps, kind: str, batch: int = 1
) -> NetworkFile:
    """Write one kind of network, made of the FP32 one and the steps."""
    make: dict[str, Callable[[], onnx.ModelProto]] = {
        'fp32': lambda: original,
        'fp16': lambda: convert_to_half(original, decoding_nodes(original)),
        'int8-uint8': lambda: store_weights_in_half(quantise(original, steps, 'uint8')),
        'int8-int8': lambda: convert_to_half(
            quantise(original, steps, 'int8'), decoding_nodes(original)
        ),
    }
    path = folder / (f'{kind}.onnx' if batch == 1 else f'{kind}-batch{batch}.onnx')
    onnx.save(make[kind](), path)
    return NetworkFile(path.name, file_sha256(path), *NETWORKS[kind], batch)


def kind_of(network: NetworkFile) -> str:
    """Key of the network in NETWORKS."""
    return next(
        k for k, typed in NETWORKS.items() if typed == (network.precision, network.encoding)
    )


def _keep_metadata(network: onnx.ModelProto) -> None:
    """Drop the day and the folder that Ultralytics writes: same weights, same bytes."""
    kept = [entry for entry in network.metadata_props if entry.key in KEPT_METADATA]
    del network.metadata_props[:]
    network.metadata_props.extend(kept)
