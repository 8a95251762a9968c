"""A model on a labelled split: weights, network or bundle -> predictions -> Evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cone_perception.accuracy.matching import match
from cone_perception.dataset.split import LabelledSplit, read_split
from cone_perception.engines import Engine
from cone_perception.engines.decode import read_layout
from cone_perception.engines.open import open_engine
from cone_perception.errors import ModelError, SettingsError, told_as
from cone_perception.filters import Filters
from cone_perception.images import read_picture
from cone_perception.model_card import (
    CARD_FILE,
    ModelCard,
    NetworkFile,
    Preprocessing,
    check_network_file,
    file_sha256,
    read_bundle,
)
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Frame, Precision, ViewsChoice
from cone_perception.views import Looks
from training.judging.evaluation import Evaluation, Origin
from training.judging.predictions import (
    LEAST_SCORE,
    NMS_IOU,
    Found,
    ModelOptions,
    Predictions,
    class_mapping,
    most_detections,
)


def evaluate(
    weights: Path,
    data: Path,
    split: str,
    options: ModelOptions | None = None,
    mapping: Mapping[str, str] | None = None,
) -> Evaluation:
    """Run a model over a split and match what it finds with what is there.

    weights: .pt, .onnx, or a bundle's folder. data: a YOLO data set. mapping: the model's class
    names -> the data set's where the table of aliases does not know them, see `class_mapping`.
    Raises DataError, ModelError, EngineError.
    """
    return evaluate_driven(weights, data, split, options, mapping)[0]


def evaluate_driven(
    weights: Path,
    data: Path,
    split: str,
    options: ModelOptions | None = None,
    mapping: Mapping[str, str] | None = None,
) -> tuple[Evaluation, Evaluation | None]:
    """The same, and what counts at the thresholds of the card: None where there is no card."""
    labelled, mapping = read_split(data, split), mapping or {}
    predictions = predict(weights, labelled, options or ModelOptions(), mapping)
    every = assemble(weights, labelled, predictions, mapping)
    if not is_bundle(weights):
        return every, None
    at_card = predictions.at(Filters().thresholds_by_view(read_bundle(weights).card))
    return every, assemble(weights, labelled, at_card, mapping)


def is_bundle(weights: Path) -> bool:
    """A bundle's folder or its card."""
    return weights.is_dir() or weights.name == CARD_FILE


def predict(
    weights: Path, split: LabelledSplit, options: ModelOptions, mapping: Mapping[str, str]
) -> Predictions:
    """Run a model over a split: weights (.pt), a network (.onnx), or a bundle's folder.

    Classes that do not fit are refused before the search. Raises ModelError, EngineError.
    """
    if is_bundle(weights):
        bundle = read_bundle(weights)
        class_mapping(bundle.card.class_names, split, mapping)
        engine = open_engine(bundle, options.engine, precision=options.precision)
        return detect(bundle.card, engine, split, options.imgsz, options.views)
    if not weights.is_file():
        raise ModelError(
            f'{weights} does not exist. Give weights (.pt), a network (.onnx) or a folder with '
            f'{CARD_FILE}.'
        )
    if weights.suffix == '.onnx':
        card, engine = _open_onnx(weights, options.names, split, mapping)
        return detect(card, engine, split, options.imgsz, options.views)
    if weights.suffix == '.pt':
        if options.views not in ('auto', 'whole'):
            raise SettingsError(
                f'--views {options.views}: Ultralytics runs weights (.pt), on whole pictures only. '
                'Export them, and give the bundle or its .onnx.'
            )
        from training.judging.validator import predict_weights

        return predict_weights(weights, split, options, mapping)
    raise ModelError(
        f'{weights} is of no kind that can be judged: give weights (.pt), a network (.onnx) or a '
        f'folder with {CARD_FILE}. A TensorRT engine is judged through its bundle.'
    )


def detect(
    card: ModelCard,
    engine: Engine,
    split: LabelledSplit,
    imgsz: int,
    views: ViewsChoice = 'auto',
    rows_px: Sequence[float | None] = (),
) -> Predictions:
    """Run the pipeline that drives, with thresholds so low that the whole ranking is kept.

    rows_px: where the band of each picture lies; empty: where its first look shows far cones.
    """
    everything = Filters(thresholds=dict.fromkeys(card.class_names, LEAST_SCORE))
    most = most_detections(split)
    pictures, looks = list[Found](), list[Looks]()
    bar = tqdm(total=len(split), desc='detect', unit='picture')
    with bar as progress, ConeDetector(card, engine, views) as detector:
        info = engine.info
        for start in range(0, len(split), detector.batch):
            part = slice(start, start + detector.batch)
            frames = [Frame(read_picture(path)) for path in split.paths[part]]
            searches, _, _ = detector.look(frames, everything, rows_px[part])
            pictures += [Found(search.cones()[:most]) for search in searches]
            looks += [search.looks for search in searches]
            progress.update(len(frames))
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
        detector.views,
        tuple(looks),
    )


def assemble(
    weights: Path, split: LabelledSplit, predictions: Predictions, mapping: Mapping[str, str]
) -> Evaluation:
    """Evaluation of what was found in the pictures of a split."""
    truth_class = [split.truth_class(index) for index in range(len(split))]
    class_of = class_mapping(predictions.class_names, split, mapping)
    rows, first = [], 0
    for index, found in enumerate(predictions.pictures):
        kept = class_of[found.cones.class_id] >= 0
        cones = found.cones[kept]
        own = class_of[cones.class_id]
        box = cones.xyxy_px if found.network_box is None else found.network_box[kept]
        truth = split.truth_box_px(index) if found.network_truth is None else found.network_truth
        matched = match(box, own, truth, truth_class[index])
        same, any_class = (np.where(cone < 0, -1, cone + first) for cone in matched)
        image = np.full(len(own), index, np.int64)
        rows.append((image, own, cones.score, cones.xyxy_px, same, any_class))
        first += len(truth_class[index])
    told = {
        own: split.class_names[target] if target >= 0 else 'ignored'
        for own, target in zip(predictions.class_names, class_of, strict=True)
        if target < 0 or split.class_names[target] != own
    }
    origin = Origin(
        weights=str(weights),
        weights_sha256=predictions.weights_sha256,
        data=str(split.data),
        data_sha256=split.sha256,
        split=split.split,
        imgsz=predictions.imgsz,
        layout=predictions.layout,
        runtime=predictions.runtime,
        precision=predictions.precision,
        class_mapping=told,
        notes=(*split.notes, *predictions.notes),
        views=predictions.views,
    )
    image, own, score, box, same, any_class = map(np.concatenate, zip(*rows, strict=True))
    return Evaluation(
        origin=origin,
        class_names=split.class_names,
        image_names=split.names,
        image_size_px=split.size_px,
        band_px=np.array([cones.band_px for cones in predictions.cones], np.float64),
        detection_image=image,
        detection_class=own,
        detection_score=score,
        detection_box_px=box,
        detection_match=same,
        detection_overlaps=any_class,
        truth_image=np.repeat(np.arange(len(split)), [len(each) for each in truth_class]),
        truth_class=np.concatenate(truth_class),
        truth_box_px=np.concatenate([split.truth_box_px(index) for index in range(len(split))]),
    )


def _open_onnx(
    path: Path, names: Sequence[str], split: LabelledSplit, mapping: Mapping[str, str]
) -> tuple[ModelCard, Engine]:
    """A network without a card, and the card that it would have."""
    from cone_perception.engines.cpu.onnxruntime import OnnxRuntimeEngine

    check_network_file(path)
    network = NetworkFile(path.name, file_sha256(path), _precision(path), 'float')
    engine = OnnxRuntimeEngine(path, network, Preprocessing(), threads=0)
    info = engine.info
    class_names = tuple(names or info.class_names)
    with ExitStack() as failed, told_as(ModelError, str(path), ValueError):
        failed.callback(engine.close)
        if not class_names:
            raise ModelError(f'{path} does not name its classes. Give them with --names.')
        if info.class_names and class_names != info.class_names:
            raise ModelError(
                f'{path} has the classes {", ".join(info.class_names)}, not '
                f'{", ".join(class_names)}: leave --names out.'
            )
        class_mapping(class_names, split, mapping)
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
        failed.pop_all()
        return card, engine


def _precision(path: Path) -> Precision:
    """Precision that the file really computes in, whatever it is called."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    if any(node.op_type == 'QuantizeLinear' for node in graph.node):
        return 'int8'
    half = onnx.TensorProto.FLOAT16
    return 'fp16' if any(entry.data_type == half for entry in graph.initializer) else 'fp32'
