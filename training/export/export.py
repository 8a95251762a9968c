"""Ultralytics weights -> a model bundle: networks, model card, evidence, licence of the weights.

weights -> FP32 -> FP16, INT8 in two encodings, for each batch -> gate -> the bundle, or a refusal
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import onnx
import yaml

from cone_perception.dataset.layout import read_layout as read_data_layout
from cone_perception.decode import OutputLayout, read_layout
from cone_perception.engines.agreement import class_names_from
from cone_perception.engines.check import run_all
from cone_perception.engines.cpu.open import open_network
from cone_perception.errors import ConePerceptionError, ModelError, SettingsError, SourceError
from cone_perception.files import write_json
from cone_perception.model_card import (
    CARD_FILE,
    Bundle,
    ModelCard,
    NetworkFile,
    file_sha256,
    read_bundle,
)
from cone_perception.types import Encoding, Precision
from training.export.calibration import ENOUGH_PICTURES, LEAST_PICTURES, Calibration
from training.export.gate import (
    Evaluated,
    GateResult,
    add_limits,
    evaluate_network,
    judge_bundle,
    limits_from,
    table,
)
from training.export.half_precision import convert_to_half, decoding_nodes, store_weights_in_half
from training.export.quantise import (
    encode_uint8,
    kept_by_default,
    quantise_everything,
    quantised_share,
    restore_float,
)
from training.export.reference_pictures import reference_pictures, write_reference
from training.export.sensitivity import (
    blocks_with,
    measure_blocks,
    plot,
    quantise_without,
    score_error,
    search_float_blocks,
    to_json,
)
from training.judging.split import JudgedSplit, read_split
from training.recipe.recipe import GateLimits
from training.runs.card import read_card
from training.stage.ultralytics_cpu import prepare_ultralytics

NETWORKS: dict[str, tuple[Precision, Encoding]] = {
    'fp32': ('fp32', 'float'),
    'fp16': ('fp16', 'float'),
    'int8-uint8': ('int8', 'uint8'),
    'int8-int8': ('int8', 'int8'),
}
"""What a bundle can hold: the reference, its twin for GPUs, OpenVINO's and TensorRT's INT8."""

OPSET = 19
"""The first in which the scales of INT8 may be FP16, as TensorRT wants them beside FP16 layers."""

KEPT_METADATA = ('names', 'imgsz', 'stride', 'task', 'license', 'version')
CALIBRATION_FILE = 'calibration.txt'
GATE_FILE = 'gate.json'
SENSITIVITY_FILES = ('sensitivity.json', 'sensitivity.png')
SENSITIVITY_PICTURES = 16
SEARCH_RESAMPLES = 100
CAMERA_PX = (1280, 720)
NETWORK_WIDTH_PX = 640
SAME_SCORE = 0.001
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
    parser.add_argument('--data', type=Path, help='YOLO data set: calibration, then the gate')
    parser.add_argument('--split', default='val', help='that the gate judges on (default: val)')
    parser.add_argument('--calibration-split', choices=['train', 'val'], default='train')
    parser.add_argument(
        '--calibration', type=Path, help='folder of pictures to calibrate with instead'
    )
    parser.add_argument(
        '--calibration-count', type=int, default=ENOUGH_PICTURES, help='(default: %(default)s)'
    )
    parser.add_argument('--out', type=Path, help="bundle's folder (default: ./NAME)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        '--imgsz', type=int, nargs=2, metavar=('H', 'W'), help="network's input, multiples of 32"
    )
    size.add_argument(
        '--settings',
        type=Path,
        help="node's settings: the letterbox of its expected_width_px and expected_height_px "
        'is taken (default: of 1280x720, which is 384x640)',
    )
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 2], help='(default: 1 2)')
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
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument(
        '--sensitivity',
        action='store_true',
        help='measure each block and keep the fewest in float with which the gate passes',
    )
    kept.add_argument(
        '--keep-float',
        nargs='+',
        metavar='BLOCK',
        help='blocks that stay in float, as sensitivity.json names them; none: only the last ones',
    )
    add_limits(parser)
    parser.add_argument('--force', action='store_true', help='bundle it though it fails the gate')
    parser.add_argument(
        '--engine', action='store_true', help="build this machine's GPU engines too"
    )


@dataclass(frozen=True, slots=True)
class Originals:
    """FP32 networks by batch, of one set of weights, and what they take and put out."""

    by_batch: Mapping[int, onnx.ModelProto]
    class_names: tuple[str, ...]
    layout: OutputLayout
    height_px: int
    width_px: int

    @property
    def first(self) -> onnx.ModelProto:
        """The one that is quantised and judged."""
        return self.by_batch[1]


def run(args: argparse.Namespace) -> int:
    """Export, quantise, judge, bundle. Raises ModelError when the gate fails without --force."""
    prepare_ultralytics()
    _check_arguments(args)
    made, measured = read_card(args.card, args.weights) if args.card else ({}, {})
    height_px, width_px = args.imgsz or letterbox_of(args.settings)
    originals = export_batches(args.weights, height_px, width_px, args.layout, args.batches)
    thresholds = _thresholds(args.threshold, originals.class_names)
    calibration = choose_pictures(args, height_px, width_px)
    split = read_split(args.data, args.split) if args.data else None
    out = args.out or Path(args.name or args.weights.stem)
    limits = limits_from(args, _recipe_beside(args.card))
    with draft_of(out) as draft:
        card = ModelCard(
            name=args.name or out.resolve().name,
            class_names=originals.class_names,
            height_px=height_px,
            width_px=width_px,
            output_layout=originals.layout,
            thresholds=thresholds,
            networks=(_save(originals.first, draft, 'fp32', 1),),
            licence='AGPL-3.0-only',
        )
        passes = _search_gate(draft, card, originals, split, limits, args)
        quantised, kept = _quantise(args, originals, calibration, draft, passes)
        if not quantised_share(quantised)[0] and any('int8' in kind for kind in args.networks):
            raise ModelError(
                f'nothing of {args.weights} would be INT8: all its blocks stay in float. Name '
                'fewer with --keep-float, or leave the INT8 networks out with --networks.'
            )
        (draft / LICENCE_FILE).write_text(WEIGHTS_LICENCE, encoding='utf-8')
        (draft / CALIBRATION_FILE).write_text(calibration.listing(), encoding='utf-8')
        card = replace(
            card,
            networks=tuple(write_networks(draft, originals, quantised, args.networks)),
            training={
                **made,
                **_json(args.training),
                'weights_sha256': file_sha256(args.weights),
                'quantised': '{} of {} convolutions are INT8'.format(*quantised_share(quantised)),
                'kept_in_float': kept,
            },
            metrics={**measured, **_json(args.metrics)},
            calibration={
                'count': len(calibration.pictures),
                'sha256': calibration.sha256(),
                'pictures': CALIBRATION_FILE,
                'from': f'{args.calibration_split} of {args.data.name}'
                if args.data and not args.calibration
                else args.calibration.name,
            },
            gate={'int8_convolutions': list(quantised_share(quantised))},
        )
        _finish(draft, card, originals, args.networks, split, limits, args)
    print(f'{out / CARD_FILE}: {card.training["quantised"]}')
    if args.engine:
        return build_engines(out, args.batches)
    return 0


def _finish(
    draft: Path,
    card: ModelCard,
    originals: Originals,
    wanted: Collection[str],
    split: JudgedSplit | None,
    limits: GateLimits,
    args: argparse.Namespace,
) -> None:
    """Check, judge, and write the card last."""
    bundle = _write_card(draft, card)
    if {'fp16', 'int8-int8'} & set(wanted):
        _write_reference(bundle, originals)
    if split is not None and len(card.networks) > 1:
        result = judge_bundle(
            bundle, split, limits, confidence=args.confidence, resamples=args.resamples
        )
        print(table(result))
        share = card.gate['int8_convolutions']
        card = replace(card, gate=result.card_entry((share[0], share[1])))
        write_json(draft / GATE_FILE, result.to_json())
        _refuse(result, args.force)
    elif split is None:
        print('No --data: nothing was judged, and the card says so.', file=sys.stderr)
    for network in card.networks:
        if _kind(network) not in wanted:
            (draft / network.file).unlink()
        else:
            path = draft / network.file
            print(f'{network.file}: {path.stat().st_size / 1e6:.2f} MB')
    card = replace(card, networks=tuple(n for n in card.networks if _kind(n) in wanted))
    others = [path for path in sorted(draft.iterdir()) if path.suffix != '.onnx']
    hashes = {path.name: file_sha256(path) for path in others if path.name != CARD_FILE}
    _write_card(draft, replace(card, other_files=hashes))


def _refuse(result: GateResult, force: bool) -> None:
    """Raise ModelError for a verdict that is not to be bundled."""
    if result.passed:
        return
    reasons = '; '.join(
        f'{judged.kind}: {", ".join(judged.failures)}' for judged in result.refusals
    )
    if force:
        print(f'FAILED, bundled all the same: {reasons}', file=sys.stderr)
        return
    raise ModelError(
        f'the gate refuses this model, and nothing was written: {reasons}. Keep more of it in '
        'float (--sensitivity finds out what), calibrate with more pictures, or bundle it as '
        'FAILED with --force.'
    )


def _quantise(
    args: argparse.Namespace,
    originals: Originals,
    calibration: Calibration,
    draft: Path,
    passes: Callable[[onnx.ModelProto], bool],
) -> tuple[onnx.ModelProto, list[str]]:
    """The quantised network and its blocks in float: the usual ones, those told, or a search's."""
    original = originals.first
    everything = quantise_everything(original, calibration)
    if args.sensitivity:
        every = max(1, len(calibration.pictures) // SENSITIVITY_PICTURES)
        some = replace(calibration, pictures=calibration.pictures[::every])
        measured = measure_blocks(everything, original, some.letterboxed(), originals.layout)
        kept = search_float_blocks(
            measured, lambda names: passes(quantise_without(everything, original, names))
        )
        for name, content in zip(
            SENSITIVITY_FILES, (to_json(measured, kept).encode(), plot(measured, kept)), strict=True
        ):
            (draft / name).write_bytes(content)
        print(f'stays in float: {", ".join(kept) or "no block"}')
    elif args.keep_float is not None:
        kept = tuple(name for name in args.keep_float if name != 'none')
    else:
        names = kept_by_default(original)
        return restore_float(everything, original, names), blocks_with(original, names)
    return quantise_without(everything, original, kept), list(kept)


def _search_gate(
    draft: Path,
    card: ModelCard,
    originals: Originals,
    split: JudgedSplit | None,
    limits: GateLimits,
    args: argparse.Namespace,
) -> Callable[[onnx.ModelProto], bool]:
    """The gate as a search asks it: OpenVINO's INT8 against FP32."""
    reference: Evaluated | None = None

    def passes(quantised: onnx.ModelProto) -> bool:
        nonlocal reference
        assert split is not None  # --sensitivity needs --data
        trial = _save(
            network_kinds(originals.first, quantised)['int8-uint8'](), draft, 'int8-uint8', 1
        )
        bundle = Bundle(draft, replace(card, networks=(*card.networks, trial)))
        reference = reference or evaluate_network(bundle, card.networks[0], split)
        result = judge_bundle(
            bundle,
            split,
            limits,
            confidence=args.confidence,
            resamples=SEARCH_RESAMPLES,
            reference=reference,
            bfloat16=False,
        )
        (draft / trial.file).unlink()
        print(table(result), file=sys.stderr)
        return result.passed

    return passes


def export_batches(
    weights: Path, height_px: int, width_px: int, layout: OutputLayout, batches: Sequence[int]
) -> Originals:
    """Export each batch from the weights: YOLO12's attention bakes it in.

    Raises SourceError when the weights have no such head.
    """
    by_batch = {}
    for batch in sorted({1, *batches}):
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
    return Originals(
        {batch: by_batch[batch] for batch in (1, *batches)}, names, layout, height_px, width_px
    )


def write_networks(
    folder: Path, originals: Originals, quantised: onnx.ModelProto, wanted: Collection[str]
) -> Iterator[NetworkFile]:
    """Write FP32 and the kinds asked for, for every batch, all with the scales of `quantised`."""
    for batch, original in originals.by_batch.items():
        scaled = quantised if batch == 1 else restore_float(quantised, original, ())
        for kind, make in network_kinds(original, scaled).items():
            if kind == 'fp32' or kind in wanted:
                yield _save(make(), folder, kind, batch)


def network_kinds(
    original: onnx.ModelProto, quantised: onnx.ModelProto
) -> dict[str, Callable[[], onnx.ModelProto]]:
    """How each kind of network is made of the FP32 one and the quantised one."""
    decoding = decoding_nodes(original)
    return {
        'fp32': lambda: original,
        'fp16': lambda: convert_to_half(original, decoding),
        'int8-uint8': lambda: store_weights_in_half(encode_uint8(quantised)),
        'int8-int8': lambda: convert_to_half(quantised, decoding),
    }


def _save(network: onnx.ModelProto, folder: Path, kind: str, batch: int) -> NetworkFile:
    path = folder / (f'{kind}.onnx' if batch == 1 else f'{kind}-batch{batch}.onnx')
    onnx.save(network, path)
    return NetworkFile(path.name, file_sha256(path), *NETWORKS[kind], batch)


def _kind(network: NetworkFile) -> str:
    return network.file.split('.')[0].split('-batch')[0]


def _write_card(folder: Path, card: ModelCard) -> Bundle:
    (folder / CARD_FILE).write_text(card.to_json(), encoding='utf-8')
    return read_bundle(folder)


def _write_reference(bundle: Bundle, originals: Originals) -> None:
    """Write the reference, and check that every batch's FP32 network agrees with it."""
    pictures = reference_pictures(originals.height_px, originals.width_px)
    expected = None
    for batch in originals.by_batch:
        engine = open_network(bundle, bundle.network('fp32', 'float', batch), 'onnxruntime')
        try:
            outputs = run_all(engine, pictures)
        finally:
            engine.close()
        if expected is None:
            expected = outputs
            write_reference(bundle.folder, pictures, outputs)
        differs = max(
            score_error(*pair, originals.layout) for pair in zip(expected, outputs, strict=True)
        )
        if not differs <= SAME_SCORE:
            raise ModelError(
                f'the export for batch {batch} gives scores that differ from those for batch 1 by '
                f'{differs:.3f}: this version of Ultralytics exports it wrongly. Install another.'
            )


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when all went well, and is gone otherwise.

    Raises SettingsError when `out` holds something that is no bundle.
    """
    if out.exists() and any(out.iterdir()) and not (out / CARD_FILE).is_file():
        raise SettingsError(f'{out} holds something that is no model bundle: give another --out.')
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as folder:
        draft = Path(folder) / 'bundle'
        draft.mkdir()
        yield draft
        if out.exists():
            out.rename(Path(folder) / 'old')
        draft.rename(out)


def letterbox_of(settings: Path | None) -> tuple[int, int]:
    """Height and width of the network's input for the camera of a node's settings file.

    Raises SettingsError when the file does not say the camera's size.
    """
    width_px, height_px = CAMERA_PX
    if settings is not None:
        try:
            content = yaml.safe_load(settings.read_text(encoding='utf-8'))
            (node,) = (entry['ros__parameters'] for entry in content.values())
            width_px, height_px = (node[f'expected_{side}_px'] for side in ('width', 'height'))
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f'{settings} is no settings file of the node: {error!r}.'
            ) from error
        if not (width_px and height_px):
            raise SettingsError(
                f'{settings} does not say how large the pictures are: set expected_width_px and '
                'expected_height_px, or give --imgsz.'
            )
    return math.ceil(NETWORK_WIDTH_PX * height_px / width_px / 32) * 32, NETWORK_WIDTH_PX


def build_engines(bundle: Path, batches: Sequence[int]) -> int:
    """Build this machine's engines of the bundle, as `cone-perception build-engine` does."""
    try:
        command = importlib.import_module('cone_perception.engines.build_command')
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        for batch in sorted(set(batches)):
            command.run(parser.parse_args([str(bundle), '--batch', str(batch)]))
    except (ConePerceptionError, ImportError) as error:
        raise ModelError(
            f'the bundle {bundle} is made, but its engine cannot be built here: {error} Run '
            f'`cone-perception build-engine {bundle}` on the machine that drives.'
        ) from error
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    if not args.data and not args.calibration:
        raise SettingsError(
            'give --data with a YOLO data set: INT8 needs pictures to calibrate, and a split to '
            'be judged on.'
        )
    if args.sensitivity and not args.data:
        raise SettingsError('--sensitivity searches against the gate: give --data.')
    if min(args.batches) < 1:
        raise SettingsError('--batches takes whole numbers from 1.')


def choose_pictures(args: argparse.Namespace, height_px: int, width_px: int) -> Calibration:
    size = (height_px, width_px)
    if args.calibration:
        found = Calibration.from_folder(args.calibration, args.calibration_count, *size)
        if args.data:
            found.refuse_test_pictures(read_data_layout(args.data))
    else:
        found = Calibration.from_split(
            args.data, args.calibration_split, args.calibration_count, *size
        )
    count = len(found.pictures)
    if count < LEAST_PICTURES:
        raise SettingsError(
            f'{count} calibration pictures are too few: give at least {LEAST_PICTURES}, better '
            f'{ENOUGH_PICTURES}.'
        )
    if count < ENOUGH_PICTURES:
        print(
            f'Only {count} calibration pictures: with {ENOUGH_PICTURES} the scales would be surer.',
            file=sys.stderr,
        )
    return found


def _recipe_beside(card: Path | None) -> Path | None:
    """The resolved recipe of the campaign that wrote this card."""
    recipe = card.parent / 'recipe.yaml' if card else None
    return recipe if recipe and recipe.is_file() else None


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
