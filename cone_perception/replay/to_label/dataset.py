"""`cone-perception bag to-dataset`: frames of a drive worth labelling -> a YOLO data set."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import yaml
from tqdm import tqdm

from cone_perception.arguments import add_fields, count, option, repeatable, zero_or_more
from cone_perception.dataset.labels import label_rows, label_text
from cone_perception.dataset.layout import TO_LABEL
from cone_perception.engines.events import print_warning
from cone_perception.errors import OutputError, SourceError, told_as
from cone_perception.files import to_json, whole_file, write_whole
from cone_perception.model_card import Bundle, file_sha256, read_bundle
from cone_perception.pages.blocks import Box, Cell, Page, Picture, Piece, Section, Text
from cone_perception.pages.page import write_page
from cone_perception.pictures.draw import encode_picture
from cone_perception.replay.drive.labels import picture_name
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.figures.result import read_result, result_file
from cone_perception.replay.pages.pictures import read_pictures
from cone_perception.replay.to_label.findings import (
    KINDS,
    Doubt,
    Findings,
    drive_of,
    find_doubts,
    findings_of,
    published,
    run_model,
    run_reference,
    spread,
)
from cone_perception.replay.traces import Drive
from cone_perception.types import Detections, Device, RuntimeChoice

STATE = '.cone_perception_dataset'
"""Folder that says whose data set it is, of what; in it what an unfinished run has found so far."""

NOTE = """# To be labelled

These frames were chosen because a model is unsure of them; `index.html` says why of each.
The labels are to begin with: correct them, in a labelling tool or here.
Then add `images/train` to the `train` of another data set. There is no `val`, on purpose: figures
on frames that were chosen for being hard, of a drive that was trained on, would mean nothing.
"""

IMAGES, LABELS = 'images/train', 'labels/train'
JPEG_QUALITY = 95


@dataclass(frozen=True)
class ToDatasetOptions:
    """The frames that are taken, the origin of what the model found, and that of what is there."""

    limit: int = option(100, 'pictures at most (100)', type=count)
    apart: float = option(0.5, 'seconds between two of a camera (0.5)', type=zero_or_more)
    min_height: float = option(
        16.0,
        'pixels; smaller cones are labelled, but are no reason to choose a frame (16)',
        type=zero_or_more,
    )
    png: bool = option(False, f'not JPEG of quality {JPEG_QUALITY}')
    result: Path | None = option(None, 'of a replay of this bag: nothing is run again then')
    model: Path | None = option(None, 'bundle folder (the shipped model)')
    device: Device = option('auto', '(auto)')
    engine: RuntimeChoice = option('auto', '(auto)')
    topic: tuple[str, ...] = repeatable('image topic; may be repeated (all)')
    truth: tuple[str, ...] = repeatable('topic of ground truth; one for each --topic')
    labels: Path | None = option(None, 'folder of YOLO labels instead')
    reference: Path | None = option(None, 'bundle of a better model, where there is no truth')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('bag', type=Path, help='folder of a rosbag2, or its .mcap or .db3 file')
    parser.add_argument('--out', type=Path, required=True, help='folder of the data set')
    add_fields(parser, ToDatasetOptions, ('limit', 'apart', 'min_height', 'png'))
    found = parser.add_argument_group('what the model found')
    add_fields(found, ToDatasetOptions, ('result', 'model', 'device', 'engine', 'topic'))
    there = parser.add_argument_group('the cones that are there')
    add_fields(there, ToDatasetOptions, ('truth', 'labels', 'reference'))


def run(args: argparse.Namespace) -> int:
    """Choose, write, say what was done; 1 when no frame is worth it."""
    if args.result and (args.model or args.topic or args.truth or args.labels):
        raise SourceError(
            '--result says what the model found and what is there: leave out --model, --topic, '
            '--truth and --labels, or --result.'
        )
    if args.out.resolve() in (args.bag.resolve(), *args.bag.resolve().parents):
        raise OutputError(f'{args.out} holds the bag {args.bag}: give another --out.')
    with told_as(OutputError, f'{args.out} cannot be written'):
        return _make(args)


def _make(args: argparse.Namespace) -> int:
    result = read_result(args.result) if args.result else None
    bundle = read_bundle(args.model)
    reference = read_bundle(args.reference) if args.reference else None
    if result is not None:
        drive = drive_of(result, args.bag)
    else:
        names = bundle.card.class_names
        drive = open_drive(args.bag, args.topic, args.truth, args.labels, names)
    for problem in drive.problems:
        print_warning(problem)
    if reference is not None and drive.truth is not None:
        raise SourceError('the truth of this drive is known: leave out --reference.')
    state = _claim(args, drive, None if result else bundle, reference)
    if (state / 'finished').is_file():
        print(f'{args.out} is complete: nothing was done.')
        return 0
    if result is not None:
        found = findings_of(result, drive)
    else:
        found = run_model(args, drive, bundle, state / 'answers.jsonl')
    origin = "the model's own" if found.known is None else 'the truth'
    if reference is not None:
        known = run_reference(args, drive, found, reference, state / 'reference.jsonl')
        found, origin = replace(found, known=known), "the reference's"
    doubts = find_doubts(
        found.frames, found.class_names, found.thresholds, found.known, args.min_height
    )
    chosen = spread(doubts, round(args.apart * 1e9), args.limit)
    if not chosen:
        print('No frame is in doubt: there is nothing to label.')
        return 1
    shown = _write_pictures(args.out, found, chosen, '.png' if args.png else '.jpg')
    _write_lists(args.out, found, shown)
    write_whole(state / 'finished', b'')
    for log in state.glob('*.jsonl'):  # answers that need not be asked for again
        log.unlink()
    answered = sum(frame.found is not None for frame in found.frames)
    print(
        f'{args.out}: {len(shown)} of {answered} frames, {len(doubts)} of them with a doubt; '
        f'labels: {origin}; why: {args.out / "index.html"}'
    )
    return 0


def _claim(
    args: argparse.Namespace, drive: Drive, bundle: Bundle | None, reference: Bundle | None
) -> Path:
    """Begin the data set's folder, or go on with it; gives the folder STATE in it.

    Raises OutputError when it holds anything but an earlier run of the same request.
    """
    root: Path = args.out
    names = ('limit', 'apart', 'min_height', 'png', 'device', 'engine', 'truth', 'labels')
    request = {  # all that decides what is written
        **{name: getattr(args, name) for name in names},
        'bag_sha256': drive.sha256,
        'cameras': drive.cameras,
        'result_sha256': file_sha256(result_file(args.result)) if args.result else None,
        'model': json.loads(bundle.card.to_json()) if bundle else None,
        'reference': json.loads(reference.card.to_json()) if reference else None,
    }
    kept = root / STATE / 'request.json'
    text = to_json(request, indent=1) + '\n'
    if kept.is_file():
        earlier, asked = json.loads(kept.read_text(encoding='utf-8')), json.loads(text)
        other = [key for key in asked if asked[key] != earlier.get(key)]
        if other:
            raise OutputError(
                f'{root} was made of something else ({", ".join(other)} differ): '
                'give another --out, or remove it.'
            )
    elif root.exists() and (
        not root.is_dir() or any(entry.name != STATE for entry in root.iterdir())
    ):
        raise OutputError(f'{root} holds other files: give a new or an empty folder as --out.')
    else:
        write_whole(kept, text)  # first: whatever a kill leaves behind is known for ours by it
    for name in (IMAGES, LABELS):
        (root / name).mkdir(parents=True, exist_ok=True)
        for unfinished in (root / name).glob('.*.part'):
            unfinished.unlink()
    return root / STATE


@dataclass(slots=True, eq=False)
class _Shown:
    """A picture of the data set. labels: the cones that are there, or those that were found."""

    doubt: Doubt
    path: Path
    labels: Detections
    size_px: tuple[int, int] = (0, 0)


def _write_pictures(
    folder: Path, found: Findings, chosen: Sequence[Doubt], suffix: str
) -> list[_Shown]:
    """Pictures and labels, those that are not there yet; a label before its picture."""
    bag, known = found.drive.bag, found.known or {}
    least = np.array([found.thresholds[name] for name in found.class_names], np.float32)
    shown = {}
    for doubt in chosen:
        frame = doubt.frame
        place = (frame.camera, frame.index)
        labels = published(frame, least).found or Detections.empty()
        labels = known.get((frame.camera, frame.stamp_ns), labels)
        path = folder / IMAGES / f'{picture_name(bag, *place)}{suffix}'
        shown[place] = _Shown(doubt, path, labels)
    topics = {camera.name: camera.topic for camera in found.drive.cameras}
    missing = {place for place, each in shown.items() if not each.path.is_file()}
    problems: list[str] = []
    with tqdm(total=len(missing), desc='writing', unit='picture', disable=None) as bar:
        for place, bgr in read_pictures(bag, topics, list(missing), problems):
            if isinstance(bgr, str):
                raise SourceError(f'{bag}: picture {place[1]} of {place[0]}: {bgr}')
            path, labels = shown[place].path, shown[place].labels
            label = folder / LABELS / f'{path.stem}.txt'
            write_whole(label, yolo_text(labels, bgr.shape[1], bgr.shape[0]))
            write_whole(path, encode_picture(suffix, bgr, JPEG_QUALITY))
            missing.discard(place)
            bar.update()
    if missing:
        raise SourceError(
            f'{bag}: {len(missing)} of the pictures cannot be found again: '
            f'{"; ".join(problems) or "the bag has changed"}'
        )
    for each in shown.values():
        picture = cv2.imread(str(each.path))
        if picture is None:
            raise OutputError(f'{each.path} is damaged: remove it, and give the command again.')
        each.size_px = (picture.shape[1], picture.shape[0])
    return list(shown.values())


def yolo_text(cones: Detections, width_px: int, height_px: int) -> str:
    """`class x y width height` per line, fractions of the picture, boxes cut at its edges."""
    corners = np.clip(cones.xyxy_px, 0, [width_px, height_px] * 2)
    seen = ((corners[:, 2:] - corners[:, :2]) >= 1).all(axis=1)
    text = label_text(label_rows(cones.class_id[seen], corners[seen], width_px, height_px))
    return ''.join(dict.fromkeys(text.splitlines(keepends=True)))


def _write_lists(folder: Path, found: Findings, shown: Sequence[_Shown]) -> None:
    """Write data.yaml, TO_LABEL.md, classes.txt, why.csv, index.html."""
    # No other key: CVAT takes each that it does not know for a split.
    content = {'train': str(IMAGES), 'names': dict(enumerate(found.class_names))}
    write_whole(folder / 'data.yaml', yaml.safe_dump(content, sort_keys=False))
    write_whole(folder / TO_LABEL, NOTE)
    # Label Studio asks for the names in a file of their own.
    write_whole(folder / 'classes.txt', '\n'.join([*found.class_names, '']))
    with whole_file(folder / 'why.csv', 'w') as stream:
        writer = csv.writer(stream, lineterminator='\n')
        writer.writerow(['rank', 'picture', 'camera', 'index', 'stamp_ns', 'weight', *KINDS, 'why'])
        for rank, each in enumerate(shown, 1):
            doubt, frame = each.doubt, each.doubt.frame
            place = (frame.camera, frame.index, frame.stamp_ns)
            counts = (len(doubt.cones[kind]) for kind in KINDS)
            weight = round(doubt.weight, 2)
            picture = f'{IMAGES}/{each.path.name}'
            writer.writerow([rank, picture, *place, weight, *counts, doubt.why])
    pictures = [_picture(rank, each, found) for rank, each in enumerate(shown, 1)]
    table = Text(['The weightiest first; the same as a table: ', Cell('why.csv', href='why.csv')])
    legend: list[Piece] = ['A box tells its class and score under the pointer. White: the labels.']
    for colour, meaning in (  # as in page.css
        ('#ff3b30', 'missed'),
        ('#ff2dd1', 'false'),
        ('#ff9500', 'vanished for this frame'),
        ('#34d0ff', 'score near the threshold'),
    ):
        legend += [' ', Cell(meaning, colour=colour)]
    title = f'{len(shown)} frames of {found.drive.bag.resolve().name} worth labelling'
    sections = [Section('', [table, Text(legend), *pictures])]
    write_page(folder / 'index.html', Page(title, sections=sections))


def _picture(rank: int, shown: _Shown, found: Findings) -> Picture:
    """A picture with its labels, its doubts, and why it was chosen."""
    names = found.class_names
    labels = zip(shown.labels.xyxy_px.tolist(), shown.labels.class_id, strict=True)
    boxes = [Box(box, 'label', names[class_id]) for box, class_id in labels]
    around = np.array([-3, -3, 3, 3])
    boxes += [
        Box((box + around).tolist(), kind, f'{kind}: {names[class_id]} {score:.2f}')
        for kind, cones in shown.doubt.cones.items()
        for box, score, class_id in zip(cones.xyxy_px, cones.score, cones.class_id, strict=True)
    ]
    stamp_s = shown.doubt.frame.stamp_ns / 1e9
    caption = f'{rank} {shown.path.name}, {stamp_s:.3f} s: {shown.doubt.why}'
    return Picture(f'{IMAGES}/{quote(shown.path.name)}', caption, shown.size_px, boxes)
