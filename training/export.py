"""Ultralytics weights -> a model bundle: networks, model card, licence of the weights."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import onnx

from cone_perception.decode import OutputLayout, read_layout
from cone_perception.engines import class_names_from
from cone_perception.errors import SourceError
from cone_perception.model_card import (
    CARD_FILE,
    Encoding,
    ModelCard,
    NetworkFile,
    Precision,
    file_sha256,
)
from training.card import read_card
from training.quantise import Calibration, encode_uint8, quantise, quantised_share
from training.ultralytics_cpu import prepare_ultralytics

NETWORKS: dict[str, tuple[Precision, Encoding]] = {
    'fp32': ('fp32', 'float'),
    'int8-uint8': ('int8', 'uint8'),
    'int8-int8': ('int8', 'int8'),
}
"""What a bundle can hold: the reference, OpenVINO's and TensorRT's way of writing INT8."""

OPSET = 18
KEPT_METADATA = ('names', 'imgsz', 'stride', 'task', 'license', 'version')
LICENCE_FILE = 'LICENSE'
WEIGHTS_LICENCE = """\
The networks in this folder were trained with Ultralytics (https://github.com/ultralytics), whose
authors license it, and models trained with it, under the GNU Affero General Public License,
version 3 (AGPL-3.0-only; text: https://www.gnu.org/licenses/agpl-3.0.txt) or a commercial licence.
This covers these network files only. The software that runs them is under the licence of the
repository and contains nothing of Ultralytics.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('weights', type=Path, help='trained Ultralytics weights (.pt)')
    parser.add_argument('--calibration', type=Path, required=True, help='folder of pictures')
    parser.add_argument('--calibration-count', type=int, default=200)
    parser.add_argument('--out', type=Path, required=True, help="bundle's folder")
    parser.add_argument('--imgsz', type=int, nargs=2, default=[384, 640], metavar=('H', 'W'))
    parser.add_argument(
        '--layout',
        choices=get_args(OutputLayout),
        default='anchors',
        help="of the output; end_to_end: only from weights with such a head, as YOLO26's",
    )
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument('--name', help='of the model (default: of the folder)')
    parser.add_argument(
        '--threshold',
        nargs='+',
        default=[],
        metavar='CLASS=SCORE',
        help='least score of a class (default: 0.25)',
    )
    parser.add_argument('--card', type=Path, help="campaign's card.json: both entries below")
    for entry in ('training', 'metrics'):
        parser.add_argument(f'--{entry}', type=Path, help=f'JSON file: the card\'s "{entry}"')


def run(args: argparse.Namespace) -> int:
    prepare_ultralytics()
    made, measured = read_card(args.card, args.weights) if args.card else ({}, {})
    height, width = args.imgsz
    calibration = Calibration.from_folder(args.calibration, args.calibration_count, height, width)
    with TemporaryDirectory() as folder:
        network = export_onnx(args.weights, Path(folder), height, width, args.layout)
        original = onnx.load(network)
        _keep_metadata(original)
        quantised = quantise(original, calibration)
    names = class_names_from({p.key: p.value for p in original.metadata_props}.get('names', ''))
    models = {'fp32': original, 'int8-uint8': encode_uint8(quantised), 'int8-int8': quantised}
    share = '{} of {} convolutions are INT8'.format(*quantised_share(quantised))
    output_shape = tuple(
        dimension.dim_value for dimension in original.graph.output[0].type.tensor_type.shape.dim
    )
    layout = read_layout(output_shape, len(names))
    if layout != args.layout:
        raise SourceError(
            f'{args.weights} puts out {layout}, not {args.layout}: it has no such head.'
        )
    args.out.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in args.networks:
        path = args.out / f'{kind}.onnx'
        onnx.save(models[kind], path)
        files.append(NetworkFile(path.name, file_sha256(path), *NETWORKS[kind]))
        print(f'{path}: {path.stat().st_size / 1e6:.2f} MB')
    (args.out / LICENCE_FILE).write_text(WEIGHTS_LICENCE, encoding='utf-8')
    card = ModelCard(
        name=args.name or args.out.resolve().name,
        class_names=names,
        height_px=height,
        width_px=width,
        output_layout=layout,
        thresholds=_thresholds(args.threshold, names),
        networks=tuple(files),
        licence='AGPL-3.0-only',
        other_files={LICENCE_FILE: file_sha256(args.out / LICENCE_FILE)},
        training={
            **made,
            **_json(args.training),
            'weights_sha256': file_sha256(args.weights),
            'quantised': share,
            'calibration_pictures': len(calibration.pictures),
            'calibration_sha256': calibration.sha256(),
        },
        metrics={**measured, **_json(args.metrics)},
    )
    (args.out / CARD_FILE).write_text(card.to_json(), encoding='utf-8')
    print(f'{args.out / CARD_FILE}: {share}')
    return 0


def export_onnx(
    weights: Path, folder: Path, height_px: int, width_px: int, layout: OutputLayout
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
        opset=OPSET,
        simplify=True,
        nms=False if layout == 'end_to_end' else None,
        device='cpu',
    )
    return Path(exported)


def _keep_metadata(network: onnx.ModelProto) -> None:
    """Drop what Ultralytics writes of the day and the folder: same weights, same bytes."""
    kept = [entry for entry in network.metadata_props if entry.key in KEPT_METADATA]
    del network.metadata_props[:]
    network.metadata_props.extend(kept)


def _thresholds(entries: list[str], names: tuple[str, ...]) -> dict[str, float]:
    thresholds = dict.fromkeys(names, 0.25)
    for entry in entries:
        name, _, score = entry.partition('=')
        if name not in thresholds:
            raise SourceError(f'--threshold {entry}: the model has no class {name!r}, only {names}')
        try:
            thresholds[name] = float(score)
        except ValueError as error:
            raise SourceError(f'--threshold {entry}: write it as CLASS=SCORE') from error
    return thresholds


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    return content


if __name__ == '__main__':
    from training.cli import main

    sys.exit(main(['export', *sys.argv[1:]]))
