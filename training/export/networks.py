"""Ultralytics weights -> FP32 networks -> every network of a bundle, and FP32's answers.

All networks are quantised with one set of steps. The answers, reference.npz, are what an engine is
checked on before it may drive: rendered drives and noise only, so that a bundle holds nobody's
pictures.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import onnx

from cone_perception.engines import class_names_from
from cone_perception.engines.check import REFERENCE_FILE, run_all
from cone_perception.engines.cpu.open import open_network
from cone_perception.engines.decode import read_layout
from cone_perception.errors import ModelError, SourceError
from cone_perception.model_card import Bundle, NetworkFile, file_sha256
from cone_perception.preprocess import letterbox
from cone_perception.types import Encoding, OutputLayout, Precision, UInt8
from training.export.quantise import (
    OPSET,
    Steps,
    convert_to_half,
    decoding_nodes,
    quantise,
    store_weights_in_half,
)
from training.export.sensitivity import score_error
from training.simulate.bag import drive_frames
from training.simulate.scene import SimulateSettings
from training.ultralytics_cpu import check_weights

NETWORKS: dict[str, tuple[Precision, Encoding]] = {
    'fp32': ('fp32', 'float'),
    'fp16': ('fp16', 'float'),
    'int8-uint8': ('int8', 'uint8'),
    'int8-int8': ('int8', 'int8'),
}
"""Networks of a bundle: the reference, its twin for GPUs, INT8 for OpenVINO and for TensorRT."""

SEED = 7_041_776


@dataclass(frozen=True, slots=True)
class Originals:
    """FP32 networks of one set of weights; the one for batch 1 is quantised and judged."""

    by_batch: Mapping[int, onnx.ModelProto]
    class_names: tuple[str, ...]
    layout: OutputLayout


def export_batches(
    weights: Path, height_px: int, width_px: int, layout: OutputLayout, batches: Sequence[int]
) -> Originals:
    """Export each batch: YOLO12's attention bakes it in. Raises SourceError: no such head."""
    by_batch = {}
    for batch in (1, *sorted({*batches} - {1})):
        with TemporaryDirectory() as folder:
            path = export_onnx(weights, Path(folder), height_px, width_px, layout, batch)
            network = by_batch[batch] = onnx.load(path)
        # Ultralytics writes the day and the folder, too: same weights shall give the same bytes.
        told = 'names', 'imgsz', 'stride', 'task', 'license', 'version'
        kept = [entry for entry in network.metadata_props if entry.key in told]
        del network.metadata_props[:]
        network.metadata_props.extend(kept)
    metadata = {entry.key: entry.value for entry in by_batch[1].metadata_props}
    names = class_names_from(metadata.get('names', ''))
    output = by_batch[1].graph.output[0].type.tensor_type.shape.dim
    found = read_layout(tuple(dimension.dim_value for dimension in output), len(names))
    if found != layout:
        raise SourceError(f'{weights} puts out {found}, not {layout}: it has no such head.')
    return Originals(by_batch, names, layout)


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
    check_weights(weights)
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
    network = original
    if kind in ('int8-uint8', 'int8-int8'):
        network = quantise(original, steps, 'uint8' if kind == 'int8-uint8' else 'int8')
    if kind == 'int8-uint8':
        network = store_weights_in_half(network)
    elif kind != 'fp32':
        network = convert_to_half(network, decoding_nodes(original))
    path = folder / (f'{kind}.onnx' if batch == 1 else f'{kind}-batch{batch}.onnx')
    onnx.save(network, path)
    return NetworkFile(path.name, file_sha256(path), *NETWORKS[kind], batch)


def reference_pictures(height_px: int, width_px: int) -> UInt8:
    """(4, height_px, width_px, 3) uint8 BGR, letterboxed: three of a rendered drive, then noise."""
    drive = drive_frames(SimulateSettings(), SEED, 3.0, 1.0)
    pictures = [letterbox(np.asarray(f.image, np.uint8), height_px, width_px) for f in drive]
    random = np.random.default_rng(SEED)
    coarse = random.integers(0, 256, (height_px // 16, width_px // 16, 3), np.uint8)
    noise = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_LINEAR)
    return np.stack([*pictures, noise.astype(np.uint8)])


def write_answers(bundle: Bundle) -> None:
    """Write reference.npz. Raises ModelError when exports for two batches answer differently."""
    card = bundle.card
    pictures = reference_pictures(card.height_px, card.width_px)
    expected = None
    for network in [each for each in card.networks if each.precision == 'fp32']:
        with closing(open_network(bundle, network, 'onnxruntime')) as engine:
            outputs = run_all(engine, pictures)
        if expected is None:
            expected = outputs
            np.savez_compressed(bundle.folder / REFERENCE_FILE, inputs=pictures, outputs=outputs)
        differs = max(
            score_error(*pair, card.output_layout) for pair in zip(expected, outputs, strict=True)
        )
        if not differs <= 0.001:
            raise ModelError(
                f'the export for batch {network.batch} gives scores that differ from those for '
                f'batch 1 by {differs:.3f}: this version of Ultralytics exports it wrongly. '
                'Install another.'
            )


def kind_of(network: NetworkFile) -> str:
    """Key of the network in NETWORKS."""
    kind = network.precision, network.encoding
    return next(name for name, typed in NETWORKS.items() if typed == kind)
