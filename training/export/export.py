"""Ultralytics weights -> a model bundle: networks, model card, evidence, licence of the weights.

weights -> FP32 -> FP16, INT8 in two encodings, for each batch -> gate -> the bundle, or a refusal
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from cone_perception.dataset.split import read_split
from cone_perception.engines import build_command
from cone_perception.errors import (
    ConePerceptionError,
    ModelError,
    SettingsError,
    SourceError,
    told_as,
)
from cone_perception.files import from_json, read_json, write_json
from cone_perception.model_card import CARD_FILE, Bundle, ModelCard, file_sha256, read_bundle
from cone_perception.settings import read_params_file
from cone_perception.types import OutputLayout, ViewName, Views
from cone_perception.views import BANDS
from training.export.calibration import ENOUGH_PICTURES, Calibration, choose_pictures
from training.export.gate import (
    GateResult,
    add_limits,
    evaluate_network,
    judge_bundle,
    limits_from,
    table,
)
from training.export.networks import (
    NETWORKS,
    Originals,
    export_batches,
    kind_of,
    write_answers,
    write_network,
    write_networks,
)
from training.export.quantise import Steps, convolutions_of, measure_steps
from training.export.sensitivity import (
    measure_blocks,
    search_float_blocks,
    steps_without,
    usual_float_blocks,
    write_evidence,
)
from training.runs.card import read_card
from training.ultralytics_cpu import Trust, prepare_ultralytics

CALIBRATION_FILE = 'calibration.txt'
NETWORK_WIDTH_PX = 640
Judge = partial[GateResult]
"""judge_bundle with its split and limits."""

WEIGHTS_LICENCE = """\
The networks in this folder were trained with Ultralytics (https://github.com/ultralytics), whose
authors license it, and models trained with it, under the GNU Affero General Public License,
version 3 (AGPL-3.0-only; text: https://www.gnu.org/licenses/agpl-3.0.txt) or a commercial licence.
This covers these network files only. The software that runs them is under the licence of the
repository and contains nothing of Ultralytics.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('weights', type=Path, help='trained Ultralytics weights (.pt)')
    add('--data', type=Path, help='YOLO data set: calibration, then the gate')
    add('--split', default='val', help='split that the gate judges on (default: val)')
    add('--calibration-split', choices=['train', 'val'], default='train')
    add('--calibration', type=Path, help='folder of pictures to calibrate with instead')
    add('--calibration-count', type=int, default=ENOUGH_PICTURES, help='(default: %(default)s)')
    add('--out', type=Path, help="bundle's folder (default: ./NAME)")
    size = parser.add_mutually_exclusive_group()
    imgsz = "network's input, multiples of 32"
    size.add_argument('--imgsz', type=int, nargs=2, metavar=('H', 'W'), help=imgsz)
    settings = (
        "node's settings: the letterbox of its expected_width_px and expected_height_px is taken "
        '(default: of 1280x720, which is 384x640)'
    )
    size.add_argument('--settings', type=Path, help=settings)
    add('--batches', type=int, nargs='+', default=[1, 2], help='(default: 1 2)')
    layout = "of the output; end_to_end: only from weights with such a head, as YOLO26's"
    add('--layout', choices=get_args(OutputLayout), default='anchors', help=layout)
    add('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS))
    add('--name', help='of the model (default: of the folder)')
    least = 'least score of a class (default: 0.25)'
    views_help = 'parts of a picture that the network is meant to see (default: whole)'
    add('--threshold', nargs='+', default=[], metavar='CLASS=SCORE', help=least)
    add('--views', choices=get_args(Views), default='whole', help=views_help)
    in_view = 'least score in a view, where it is not that of the class'
    add('--view-threshold', nargs='+', default=[], metavar='VIEW:CLASS=SCORE', help=in_view)
    add('--card', type=Path, help="campaign's card.json: both entries below")
    for entry in ('training', 'metrics'):
        add(f'--{entry}', type=Path, help=f'JSON file: the card\'s "{entry}"')
    kept = parser.add_mutually_exclusive_group()
    search = 'measure each block and keep the fewest in float with which the gate passes'
    kept.add_argument('--sensitivity', action='store_true', help=search)
    named = 'blocks that stay in float, as sensitivity.json names them; none: only the last ones'
    kept.add_argument('--keep-float', nargs='+', metavar='BLOCK', help=named)
    add_limits(parser)
    add('--trust', action=Trust)
    add('--force', action='store_true', help='bundle it though it fails the gate')
    add('--engine', action='store_true', help="build this machine's GPU engines too")


def run(args: argparse.Namespace) -> int:
    """Export, quantise, judge, bundle. Raises ModelError when the gate fails without --force."""
    prepare_ultralytics()
    _check_arguments(args)
    made, measured = _read_entries(args)
    height_px, width_px = args.imgsz or letterbox_of(args.settings)
    originals = export_batches(args.weights, height_px, width_px, args.layout, args.batches)
    thresholds = _thresholds(args.threshold, originals.class_names)
    view_thresholds = _view_thresholds(args.view_threshold, originals.class_names)
    chosen = args.data, args.calibration_split, args.calibration, args.calibration_count
    calibration = choose_pictures(*chosen, height_px, width_px, args.views)
    recipe = args.card.with_name('recipe.yaml') if args.card else None
    limits = limits_from(args, recipe if recipe and recipe.is_file() else None)
    judge = None
    if args.data:
        split = read_split(args.data, args.split)
        judge = partial(judge_bundle, split=split, limits=limits, confidence=args.confidence)
    out = args.out or Path(args.name or args.weights.stem)
    with draft_of(out) as draft:
        card = ModelCard(
            name=args.name or out.resolve().name,
            class_names=originals.class_names,
            height_px=height_px,
            width_px=width_px,
            output_layout=originals.layout,
            thresholds=thresholds,
            networks=(write_network(draft, originals.by_batch[1], {}, 'fp32'),),
            licence='AGPL-3.0-only',
            views=args.views,
            view_thresholds=view_thresholds,
        )
        bundle = Bundle(draft, card)
        steps, kept = _choose_steps(args, bundle, originals, calibration, judge)
        share = len(steps), len(convolutions_of(originals.by_batch[1]))
        (draft / 'LICENSE').write_text(WEIGHTS_LICENCE, encoding='utf-8')
        (draft / CALIBRATION_FILE).write_text(calibration.listing(), encoding='utf-8')
        card = replace(
            card,
            networks=tuple(write_networks(draft, originals, steps, args.networks)),
            training={
                **made,
                'weights_sha256': file_sha256(args.weights),
                'quantised': f'{share[0]} of {share[1]} convolutions are INT8',
                'kept_in_float': kept,
            },
            metrics=measured,
            calibration={
                'count': len(calibration.pictures),
                'sha256': calibration.sha256(),
                'pictures': CALIBRATION_FILE,
                'views': args.views,
                'from': args.calibration.name
                if args.calibration
                else f'{args.calibration_split} of {args.data.name}',
            },
            gate={'int8_convolutions': list(share)},
        )
        bundle = _write_card(draft, card)
        write_answers(bundle)
        if judge is None:
            print('No --data: nothing was judged, and the card says so.', file=sys.stderr)
        elif len(card.networks) > 1:
            result = judge(bundle, resamples=args.resamples)
            print(table(result))
            card = replace(card, gate=result.card_entry(share))
            write_json(draft / 'gate.json', result.to_json())
            _refuse(result, args.force)
        _finish(draft, card, args.networks)
    print(f'{out / CARD_FILE}: {card.training["quantised"]}')
    if args.engine:
        build_engines(out, args.batches)
    return 0


def _finish(draft: Path, card: ModelCard, wanted: Collection[str]) -> None:
    """Remove the networks that nobody asked for, and write the card with all hashes."""
    for network in card.networks:
        if kind_of(network) not in wanted:
            (draft / network.file).unlink()
    networks = tuple(n for n in card.networks if kind_of(n) in wanted)
    for path in sorted(draft.glob('*.onnx')):
        print(f'{path.name}: {path.stat().st_size / 1e6:.2f} MB')
    others = [p for p in sorted(draft.iterdir()) if p.suffix != '.onnx' and p.name != CARD_FILE]
    hashes = {path.name: file_sha256(path) for path in others}
    _write_card(draft, replace(card, networks=networks, other_files=hashes))


def _refuse(result: GateResult, force: bool) -> None:
    """Raise ModelError when the gate refuses the bundle and `force` is not given."""
    reasons = '; '.join(f'{each.kind}: {", ".join(each.failures)}' for each in result.refusals)
    if reasons and force:
        print(f'FAILED, bundled all the same: {reasons}', file=sys.stderr)
    elif reasons:
        raise ModelError(
            f'the gate refuses this model, and nothing was written: {reasons}. Keep more of it in '
            'float (--sensitivity finds out what), calibrate with more pictures, or bundle it as '
            'FAILED with --force.'
        )


def _choose_steps(
    args: argparse.Namespace,
    bundle: Bundle,
    originals: Originals,
    calibration: Calibration,
    judge: Judge | None,
) -> tuple[Steps, list[str]]:
    """Steps of what becomes INT8, and the blocks in float: usual, named, or found by a search.

    bundle: the FP32 network alone. judge: None without data. Raises ModelError when INT8 is wanted
    and nothing would be.
    """
    original = originals.by_batch[1]
    steps = measure_steps(original, calibration)
    if judge and args.sensitivity:
        kept = _search_float_blocks(steps, bundle, originals, calibration, judge)
        print(f'stays in float: {", ".join(kept) or "no block"}')
    elif args.keep_float is not None:
        kept = [name for name in args.keep_float if name != 'none']
    else:
        kept = usual_float_blocks(original)
    chosen = steps_without(steps, original, kept)
    if not chosen and any('int8' in kind for kind in args.networks):
        raise ModelError(
            f'nothing of {args.weights} would be INT8: all its blocks stay in float. Name '
            'fewer with --keep-float, or leave the INT8 networks out with --networks.'
        )
    return chosen, kept


def _search_float_blocks(
    steps: Steps, bundle: Bundle, originals: Originals, calibration: Calibration, judge: Judge
) -> list[str]:
    """The fewest blocks in float with which OpenVINO's INT8 passes the gate; writes evidence."""
    original = originals.by_batch[1]
    (fp32,) = bundle.card.networks
    reference = evaluate_network(bundle, fp32, judge.keywords['split'])

    def passes(kept: Collection[str]) -> bool:
        chosen = steps_without(steps, original, kept)
        trial = write_network(bundle.folder, original, chosen, 'int8-uint8')
        both = Bundle(bundle.folder, replace(bundle.card, networks=(fp32, trial)))
        result = judge(both, resamples=100, reference=reference, bfloat16=False)
        (bundle.folder / trial.file).unlink()
        print(table(result), file=sys.stderr)
        return result.passed

    every = max(1, len(calibration.pictures) // 16)  # about 16 tell blocks apart
    some = replace(calibration, pictures=calibration.pictures[::every])
    measured = measure_blocks(steps, original, [*some.shown()], originals.layout)
    kept = search_float_blocks(measured, passes)
    write_evidence(bundle.folder, measured, kept)
    return [*kept]


def _write_card(folder: Path, card: ModelCard) -> Bundle:
    (folder / CARD_FILE).write_text(card.to_json(), encoding='utf-8')
    return read_bundle(folder)


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` if all goes well. Raises SettingsError: `out` is no bundle."""
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
    """Height and width of the input for the camera of a node's settings. Raises SettingsError."""
    width_px, height_px = 1280, 720
    if settings is not None:
        node = read_params_file(settings)
        width_px, height_px = (node.get(f'expected_{side}_px', 0) for side in ('width', 'height'))
        if not (width_px and height_px):
            raise SettingsError(
                f'{settings} does not say how large the pictures are: set expected_width_px and '
                'expected_height_px, or give --imgsz.'
            )
    return math.ceil(NETWORK_WIDTH_PX * height_px / width_px / 32) * 32, NETWORK_WIDTH_PX


def build_engines(bundle: Path, batches: Sequence[int]) -> None:
    """Build this machine's engines of the bundle, as `cone-perception build-engine` does."""
    parser = argparse.ArgumentParser()
    build_command.add_arguments(parser)
    try:
        for batch in sorted(set(batches)):
            build_command.run(parser.parse_args([str(bundle), '--batch', str(batch)]))
    except (ConePerceptionError, ImportError) as error:
        raise ModelError(
            f'the bundle {bundle} is made, but its engine cannot be built here: {error} Run '
            f'`cone-perception build-engine {bundle}` on the machine that drives.'
        ) from error


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


def _read_entries(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The card's `training` and `metrics`: of the campaign, and above them those of the files."""
    made, measured = read_card(args.card, args.weights) if args.card else ({}, {})
    for entry, path in ((made, args.training), (measured, args.metrics)):
        if path:
            with told_as(SourceError, f'{path} is no JSON file for the card', OSError, ValueError):
                entry |= from_json(Mapping[str, Any], read_json(path), 'it')
    return made, measured


def _thresholds(entries: list[str], names: tuple[str, ...]) -> dict[str, float]:
    told = (_threshold('--threshold', entry, entry, names) for entry in entries)
    return dict.fromkeys(names, 0.25) | dict(told)


def _view_thresholds(
    entries: list[str], names: tuple[str, ...]
) -> dict[ViewName, dict[str, float]]:
    """View -> class -> least score, of VIEW:CLASS=SCORE. Raises SourceError."""
    found: dict[ViewName, dict[str, float]] = {}
    for entry in entries:
        told, _, rest = entry.partition(':')
        view = next((each for each in ('tile', *BANDS) if each == told), None)
        if view is None:
            raise SourceError(
                f'--view-threshold {entry}: {told!r} is no view beside the whole picture: write '
                f'it as VIEW:CLASS=SCORE, with {", ".join(("tile", *BANDS))} for VIEW.'
            )
        name, score = _threshold('--view-threshold', entry, rest, names)
        found.setdefault(view, {})[name] = score
    return found


def _threshold(option: str, entry: str, told: str, names: tuple[str, ...]) -> tuple[str, float]:
    """Class and score of CLASS=SCORE. Raises SourceError."""
    name, _, score = told.partition('=')
    if name not in names:
        raise SourceError(f'{option} {entry}: the model has no class {name!r}, only {names}')
    with told_as(SourceError, f'{option} {entry}: {told} is no CLASS=SCORE', ValueError):
        return name, float(score)
