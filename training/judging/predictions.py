"""What a model finds in the pictures of a split: one form, whatever file the model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.decode import OutputLayout, read_layout
from cone_perception.engines import Engine
from cone_perception.engines.open import open_engine
from cone_perception.errors import ModelError, SourceError
from cone_perception.filters import Filters
from cone_perception.model_card import CARD_FILE, ModelCard, NetworkFile, file_sha256, read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Float32, Frame, Int64, Precision
from training.judging.split import JudgedSplit

LEAST_SCORE = 0.001
"""Average precision needs the whole ranking; Ultralytics keeps it down to here."""

MOST_DETECTIONS = 300
"""Per picture, best first, as Ultralytics; more where a picture has more cones than that."""

NMS_IOU = 0.7
"""Ultralytics' own when it validates."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Detections of one picture, best score first, and the picture's cones beside them.

    box_px: (N, 4) float32, source pixels. score: (N,) float32. class_id: (N,) int64, the model's.
    network_box, network_truth: (N, 4) and (M, 4) float32, where they are matched: in pixels of the
    network's input for weights, as Ultralytics does it, else in source pixels.
    """

    box_px: Float32
    score: Float32
    class_id: Int64
    network_box: Float32
    network_truth: Float32


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """All that a model found. The fields are those of evaluation.Origin.

    class_names: the model's own, in its order. pictures: in the order of the split.
    """

    class_names: tuple[str, ...]
    pictures: tuple[Found, ...]
    weights_sha256: str
    imgsz: tuple[int, int]
    layout: OutputLayout
    runtime: str
    precision: Precision
    notes: tuple[str, ...] = ()


def predict(
    weights: Path,
    split: JudgedSplit,
    imgsz: int,
    device: str | int | None,
    layout: OutputLayout,
    names: Sequence[str] | None,
) -> Predictions:
    """Run a model over a split: weights (.pt), a network (.onnx), or a bundle's folder.

    imgsz, device, layout: of weights; a network has its own. names: of the model's classes where
    a network says nothing about them. Raises ModelError, EngineError.
    """
    if weights.is_dir() or weights.name == CARD_FILE:
        bundle = read_bundle(weights)
        return detect(bundle.card, open_engine(bundle), split, imgsz)
    if not weights.is_file():
        raise ModelError(
            f'{weights} does not exist. Give weights (.pt), a network (.onnx) or a folder with '
            f'{CARD_FILE}.'
        )
    if weights.suffix == '.onnx':
        card, engine = _open_onnx(weights, names)
        return detect(card, engine, split, imgsz)
    if weights.suffix == '.pt':
        from training.judging.validator import predict_weights

        return predict_weights(weights, split, imgsz, device, layout)
    raise ModelError(
        f'{weights} is of no kind that can be judged: give weights (.pt), a network (.onnx) or a '
        f'folder with {CARD_FILE}. A TensorRT engine is judged through its bundle.'
    )


def most_detections(split: JudgedSplit) -> int:
    """How many detections of a picture are kept."""
    return max(MOST_DETECTIONS, *(len(rows) for rows in split.rows))


def detect(card: ModelCard, engine: Engine, split: JudgedSplit, imgsz: int) -> Predictions:
    """The pipeline that drives, with thresholds so low that the whole ranking is kept."""
    everything = Filters(thresholds=dict.fromkeys(card.class_names, LEAST_SCORE))
    most = most_detections(split)
    pictures: list[Found] = []
    with ConeDetector(card, engine) as detector:
        info = engine.info
        with tqdm(total=len(split), desc='detect', unit='picture') as progress:
            for start in range(0, len(split), detector.batch):
                paths = split.paths[start : start + detector.batch]
                found, _ = detector.detect([_read(path) for path in paths], everything)
                for index, each in enumerate(found, start):
                    best = each[:most]
                    truth = split.truth_box_px(index)
                    pictures.append(
                        Found(best.xyxy_px, best.score, best.class_id, best.xyxy_px, truth)
                    )
                progress.update(len(paths))
    size = (card.height_px, card.width_px)
    notes = []
    if max(size) != imgsz:
        notes.append(f'the network takes {size[0]}x{size[1]} pixels, whatever size was asked for')
    if card.output_layout == 'anchors':
        notes.append(f'boxes of one class that overlap by more than {card.nms_iou:g} are one cone')
    return Predictions(
        card.class_names,
        tuple(pictures),
        info.network_sha256,
        size,
        card.output_layout,
        f'{info.runtime} on {info.device}',
        info.precision,
        tuple(notes),
    )


def _read(path: Path) -> Frame:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SourceError(f'{path} cannot be decoded as a picture: replace or remove it.')
    return Frame(bgr.astype(np.uint8, copy=False), source=path.name)


def _open_onnx(path: Path, names: Sequence[str] | None) -> tuple[ModelCard, Engine]:
    """A network without a card, and the card that it would have."""
    from cone_perception.engines.cpu.onnxruntime import OnnxRuntimeEngine
    from cone_perception.model_card import Preprocessing

    sha256 = file_sha256(path)
    network = NetworkFile(path.name, sha256, _precision(path), 'float')
    engine = OnnxRuntimeEngine(path, network, Preprocessing(), threads=0)
    info = engine.info
    class_names = tuple(names or info.class_names)
    try:
        if not class_names:
            raise ModelError(f'{path} does not name its classes. Give them with --names.')
        if info.class_names and class_names != info.class_names:
            raise ModelError(
                f'{path} has the classes {", ".join(info.class_names)}, not '
                f'{", ".join(class_names)}: leave --names out.'
            )
        card = ModelCard(
            name=path.stem,
            class_names=class_names,
            height_px=info.input_shape[2],
            width_px=info.input_shape[3],
            output_layout=read_layout(info.output_shape, len(class_names)),
            thresholds=dict.fromkeys(class_names, LEAST_SCORE),
            networks=(network,),
            licence='unknown',
            nms_iou=NMS_IOU,
        )
    except (ModelError, ValueError) as error:
        engine.close()
        raise error if isinstance(error, ModelError) else ModelError(f'{path}: {error}') from error
    return card, engine


def _precision(path: Path) -> Precision:
    """What the file really computes in, not what it is called."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    if any(node.op_type == 'QuantizeLinear' for node in graph.node):
        return 'int8'
    half = onnx.TensorProto.FLOAT16
    return 'fp16' if any(entry.data_type == half for entry in graph.initializer) else 'fp32'


def class_mapping(
    model: Sequence[str],
    canonical: Sequence[str],
    class_names: Sequence[str],
    needed: Sequence[str],
    mapping: Mapping[str, str],
) -> Int64:
    """(model classes,) int64: index into class_names of each of the model's classes; -1: ignored.

    canonical: the project's name of each of the model's. needed: classes that have a cone.
    mapping: what the user says: the model's name -> the data set's, '' to ignore what is found of
    it; '' -> a class that the model does not have, whose cones count as missed.
    Raises ModelError for a class that has no counterpart.
    """
    unknown = [name for name in mapping if name and name not in model]
    unknown += [
        name
        for name in mapping.values()
        for name in name.split(',')
        if name and name not in class_names
    ]
    advice = (
        f'The model has {", ".join(model)}; the data set {", ".join(class_names)}. Say which is '
        'which: --map MODEL=DATA, --map MODEL= to ignore what it finds of that class, '
        '--map =DATA for one that it does not know.'
    )
    if unknown:
        raise ModelError(f'--map names {", ".join(unknown)}, which is not there. {advice}')
    result = []
    for own, name in zip(model, canonical, strict=True):
        target = mapping.get(own, name)
        if target and target not in class_names:
            raise ModelError(f'the data set has no class {own}. {advice}')
        result.append(class_names.index(target) if target else -1)
    without = set(mapping.get('', '').split(','))
    lacking = [
        name for name in needed if class_names.index(name) not in result and name not in without
    ]
    if lacking:
        raise ModelError(f'the model has no class {", ".join(lacking)}. {advice}')
    return np.array(result, np.int64)
