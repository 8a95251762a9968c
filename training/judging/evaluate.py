"""Judge a model on a labelled split: predictions -> Evaluation -> figures, tables and plots."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np

from cone_perception.decode import OutputLayout
from cone_perception.errors import InstallError, SettingsError
from training.judging import evaluation as ev
from training.judging.coco import coco_figures
from training.judging.evaluation import Evaluation, Metrics, Origin, metrics
from training.judging.predictions import Predictions, class_mapping, predict
from training.judging.split import JudgedSplit, canonical_names, named_pictures, read_split


def evaluate(
    weights: Path,
    data: Path,
    split: str,
    *,
    imgsz: int = 640,
    device: str | int | None = None,
    layout: OutputLayout = 'anchors',
    names: Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
) -> Evaluation:
    """Run a model over a split and match what it finds with what is there.

    weights: .pt, .onnx, or a bundle's folder. data: a YOLO data set. imgsz: longer side of the
    network's input, pixels, and layout: the head, both for .pt only: `anchors` is what `export`
    deploys unless told otherwise. device: 'cpu' or a GPU's number, for .pt; None: a GPU if there is
    one. names: the classes of an .onnx that does not say them. mapping: the model's class names ->
    the data set's where the table of aliases does not know them, see predictions.class_mapping.
    Raises DataError, ModelError, EngineError.
    """
    judged = read_split(data, split)
    predictions = predict(weights, judged, imgsz, device, layout, names)
    return assemble(weights, judged, predictions, mapping or {})


def assemble(
    weights: Path, split: JudgedSplit, predictions: Predictions, mapping: Mapping[str, str]
) -> Evaluation:
    """Evaluation of what was found in the pictures of a split."""
    truth_class = [split.truth_class(index) for index in range(len(split))]
    present = np.unique(np.concatenate(truth_class))
    class_of = class_mapping(
        predictions.class_names,
        canonical_names(predictions.class_names),
        split.class_names,
        [split.class_names[index] for index in present],
        mapping,
    )
    image, own, score, box, same, overlapped = [], [], [], [], [], []
    offset = 0
    for index, found in enumerate(predictions.pictures):
        kept = class_of[found.class_id] >= 0
        own.append(class_of[found.class_id[kept]])
        match, overlaps = ev.match(
            found.network_box[kept], own[-1], found.network_truth, truth_class[index]
        )
        image.append(np.full(len(match), index, np.int64))
        score.append(found.score[kept])
        box.append(found.box_px[kept])
        same.append(np.where(match < 0, -1, match + offset))
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('weights', type=Path, help='.pt, .onnx, or the folder of a model bundle')
    parser.add_argument('--data', type=Path, required=True, help='YOLO data set with data.yaml')
    parser.add_argument('--split', default='test', help='(default: test)')
    parser.add_argument(
        '--imgsz', type=int, default=640, help='longer side in pixels, of .pt (default: 640)'
    )
    parser.add_argument('--device', help="cpu or a GPU's number, for .pt (default: a GPU if any)")
    parser.add_argument(
        '--layout',
        choices=get_args(OutputLayout),
        default='anchors',
        help='head of a .pt that has two, as YOLO26: the one that is exported (default: anchors)',
    )
    parser.add_argument('--names', nargs='+', help='classes of an .onnx that does not say them')
    parser.add_argument(
        '--map',
        action='append',
        default=[],
        metavar='MODEL=DATA',
        help="class of the model that is the data set's; MODEL= ignores it; =DATA: not known to it",
    )
    parser.add_argument(
        '--confidence',
        type=float,
        default=ev.FIXED_CONFIDENCE,
        help='fixed operating point (default: %(default)s)',
    )
    parser.add_argument('--out', type=Path, help='folder for evaluation.npz, figures and plots')
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')


def run(args: argparse.Namespace) -> int:
    evaluation = evaluate(
        args.weights,
        args.data,
        args.split,
        imgsz=args.imgsz,
        device=args.device,
        layout=args.layout,
        names=args.names,
        mapping=read_mapping(args.map),
    )
    figures = metrics(evaluation, confidence=args.confidence)
    if args.json:
        facts = {'origin': asdict(evaluation.origin), 'figures': figures.as_json()}
        print(json.dumps(facts, indent=2))
    else:
        print_figures(evaluation, figures)
    if args.out:
        write_evaluation(evaluation, args.out, args.confidence)
        print(f'written to {args.out}', file=sys.stderr)
    return 0


def write_evaluation(
    evaluation: Evaluation, folder: Path, confidence: float = ev.FIXED_CONFIDENCE
) -> None:
    """Write the arrays, the figures, COCO's beside them, and the plots. Raises OutputError.

    Without faster-coco-eval the figures by COCO's rules are missing, and a line says so.
    """
    from training.judging.plots import write_plots

    try:
        coco = coco_figures(evaluation).as_json()
    except InstallError as error:
        print(f"COCO's figures are left out: {error}", file=sys.stderr)
        coco = None
    evaluation.save(folder, confidence, coco)
    pictures = named_pictures(Path(evaluation.origin.data), evaluation.origin.split)
    write_plots(evaluation, pictures, folder, confidence)


def read_mapping(entries: Sequence[str]) -> dict[str, str]:
    """`MODEL=DATA` entries -> mapping. Several `=DATA` are joined by commas."""
    mapping: dict[str, str] = {}
    for entry in entries:
        own, equals, name = entry.partition('=')
        if not equals or (own and own in mapping) or not (own or name):
            raise SettingsError(f'--map {entry}: write it as MODEL=DATA, each class once')
        mapping[own] = f'{mapping[own]},{name}' if own in mapping else name
    return mapping


def print_figures(evaluation: Evaluation, figures: Metrics) -> None:
    """Print the tables: all, per class, and by box height."""
    origin = evaluation.origin
    print(
        f'{origin.weights} on {origin.data}, split {origin.split}: {figures.images:g} pictures, '
        f'{figures.truths:g} cones\n'
        f'{origin.runtime}, {origin.precision}, {origin.layout} output, '
        f'input {origin.imgsz[0]}x{origin.imgsz[1]}'
    )
    for own, name in origin.class_mapping.items():
        print(f"the model's {own} is {name}")
    for note in origin.notes:
        print(f'note: {note}')
    best, fixed = figures.best_f1, figures.fixed
    print(f'\nmAP50 {figures.map50:.4f}   mAP50-95 {figures.map50_95:.4f}')
    for what, point in (("the model's best F1", best), ('the fixed confidence', fixed)):
        print(
            f'precision {point.precision:.4f}   recall {point.recall:.4f}   at {what}, '
            f'{point.confidence:.3f}'
        )
    print(
        f'\n{"class":20}{"cones":>7}{"AP50":>8}{"AP50-95":>9}'
        f'{"P best":>9}{"R best":>8}{f"P {fixed.confidence:g}":>9}{f"R {fixed.confidence:g}":>8}'
    )
    for name, each in figures.per_class.items():
        print(
            f'{name:20}{each.truths:7g}{each.ap50:8.3f}{each.ap50_95:9.3f}{each.precision:9.3f}'
            f'{each.recall:8.3f}{each.fixed_precision:9.3f}{each.fixed_recall:8.3f}'
        )
    title = f'height at {ev.REFERENCE_WIDTH_PX} px'
    print(
        f'\n{title:20}{"cones":>7}{"mAP50":>8}{"mAP50-95":>9}'
        f'{"":17}{f"P {fixed.confidence:g}":>9}{f"R {fixed.confidence:g}":>8}'
    )
    for band in figures.bands:
        span = f'{band.low_px:g} to {band.high_px:g} px'
        if math.isinf(band.high_px):
            span = f'from {band.low_px:g} px'
        print(
            f'{span:20}{band.truths:7g}{band.map50:8.3f}{band.map50_95:9.3f}{"":17}'
            f'{band.precision:9.3f}{band.recall:8.3f}'
        )


if __name__ == '__main__':
    from training.cli import main

    sys.exit(main(['evaluate', *sys.argv[1:]]))
