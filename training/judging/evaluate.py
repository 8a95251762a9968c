"""A model on a labelled split: predictions matched with what is there -> Evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cone_perception.accuracy.matching import match
from cone_perception.dataset.split import LabelledSplit, named_pictures, read_split
from training.judging.evaluation import Evaluation, Origin
from training.judging.metrics import FIXED_CONFIDENCE, Confidence
from training.judging.predict import predict
from training.judging.predictions import ModelOptions, Predictions, class_mapping
from training.judging.stored import save_evaluation


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
    labelled = read_split(data, split)
    predictions = predict(weights, labelled, options or ModelOptions(), mapping or {})
    return assemble(weights, labelled, predictions, mapping or {})


def assemble(
    weights: Path, split: LabelledSplit, predictions: Predictions, mapping: Mapping[str, str]
) -> Evaluation:
    """Evaluation of what was found in the pictures of a split."""
    truth_class = [split.truth_class(index) for index in range(len(split))]
    class_of = class_mapping(predictions.class_names, split, mapping)
    image, own, score, box, same, overlapped = [], [], [], [], [], []
    offset = 0
    for index, found in enumerate(predictions.pictures):
        kept = class_of[found.class_id] >= 0
        own.append(class_of[found.class_id[kept]])
        cone, overlaps = match(
            found.network_box[kept], own[-1], found.network_truth, truth_class[index]
        )
        image.append(np.full(len(cone), index, np.int64))
        score.append(found.score[kept])
        box.append(found.box_px[kept])
        same.append(np.where(cone < 0, -1, cone + offset))
        overlapped.append(np.where(overlaps < 0, -1, overlaps + offset))
        offset += len(truth_class[index])
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
    )
    return Evaluation(
        origin=origin,
        class_names=split.class_names,
        image_names=split.names,
        image_size_px=split.size_px,
        detection_image=np.concatenate(image),
        detection_class=np.concatenate(own),
        detection_score=np.concatenate(score),
        detection_box_px=np.concatenate(box),
        detection_match=np.concatenate(same),
        detection_overlaps=np.concatenate(overlapped),
        truth_image=np.repeat(np.arange(len(split)), [len(each) for each in truth_class]),
        truth_class=np.concatenate(truth_class),
        truth_box_px=np.concatenate([split.truth_box_px(index) for index in range(len(split))]),
    )


def write_evaluation(
    evaluation: Evaluation, folder: Path, confidence: Confidence = FIXED_CONFIDENCE
) -> None:
    """Write the arrays, the figures and the plots. Raises OutputError."""
    from training.judging.plots import write_plots

    save_evaluation(evaluation, folder, confidence)
    pictures = named_pictures(Path(evaluation.origin.data), evaluation.origin.split)
    write_plots(evaluation, pictures, folder, confidence)
