"""Run a model over a split, whatever file it is: weights, a network, or a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.dataset.split import LabelledSplit
from cone_perception.decode import read_layout
from cone_perception.engines import Engine
from cone_perception.engines.open import open_engine
from cone_perception.errors import ModelError, SourceError
from cone_perception.filters import Filters
from cone_perception.model_card import CARD_FILE, ModelCard, NetworkFile, file_sha256, read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Frame, Precision
from training.judging.predictions import (
    LEAST_SCORE,
    NMS_IOU,
    Found,
    ModelOptions,
    Predictions,
    class_mapping,
    most_detections,
)


def predict(
    weights: Path, split: LabelledSplit, options: ModelOptions, mapping: Mapping[str, str]
) -> Predictions:
    """Run a model over a split: weights (.pt), a network (.onnx), or a bundle's folder.

    mapping: see `class_mapping`; classes that do not fit are refused before the search.
    Raises ModelError, EngineError.
    """
    if weights.is_dir() or weights.name == CARD_FILE:
        bundle = read_bundle(weights)
        class_mapping(bundle.card.class_names, split, mapping)
        engine = open_engine(bundle, options.engine, precision=options.precision)
        return detect(bundle.card, engine, split, options.imgsz)
    if not weights.is_file():
        raise ModelError(
            f'{weights} does not exist. Give weights (.pt), a network (.onnx) or a folder with '
            f'{CARD_FILE}.'
        )
    if weights.suffix == '.onnx':
        card, engine = _open_onnx(weights, options.names)
        try:
            class_mapping(card.class_names, split, mapping)
        except ModelError:
            engine.close()
            raise
        return detect(card, engine, split, options.imgsz)
    if weights.suffix == '.pt':
        from training.judging.validator import predict_weights

        return predict_weights(weights, split, options, mapping)
    raise ModelError(
        f'{weights} is of no kind that can be judged: give weights (.pt), a network (.onnx) or a '
        f'folder with {CARD_FILE}. A TensorRT engine is judged through its bundle.'
    )


def detect(card: ModelCard, engine: Engine, split: LabelledSplit, imgsz: int) -> Predictions:
    """Run the pipeline that drives, with thresholds so low that the whole ranking is kept."""
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


def _open_onnx(path: Path, names: Sequence[str]) -> tuple[ModelCard, Engine]:
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
