r"""How far a bundle sees, with each set of views: on drives, by metres, and on real pictures.

    python benchmarks/range.py --data FSOCO_MINI 1280 10 --data FS_CONES_MINI 1024 500 \
        --clip ONBOARD --json range.json --page range.html --sheets build/sheets

Drives are rendered from seeds that nobody tuned on. A set of labelled pictures is named with the
width that heights refer to and the file numbers that an interval takes as one. Every picture is a
still: its band lies where its first look shows far cones. docs/results/range.md has the figures,
the JSON the definitions. Needs the extras cpu, data and train.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from output import Figures, benchmark_parser, write_result
from renders import (
    NEAR_PX,
    NEAR_SEED,
    ON_A_CONE,
    best_overlaps,
    judge_drives,
    judge_near,
    render_drive,
    render_near,
    search,
)

from cone_perception.accuracy.average_precision import band_name, map50, rank, share
from cone_perception.accuracy.intervals import expanded_tail, resampled, share_interval
from cone_perception.accuracy.matching import Matches
from cone_perception.classes import CLASS_NAMES, LARGE_ORANGE, ORANGE, UNKNOWN
from cone_perception.dataset.split import LabelledSplit, read_split
from cone_perception.engines.machine import describe_host
from cone_perception.engines.open import open_engine
from cone_perception.filters import Filters
from cone_perception.images import read_picture
from cone_perception.model_card import ModelCard, read_bundle
from cone_perception.pages.blocks import Page, Section
from cone_perception.pages.page import write_page
from cone_perception.pictures.draw import class_colour, draw_caption, encode_picture, short_name
from cone_perception.pictures.sources import open_source
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Detections, Float32, Frame, Precision, Views
from training.judging.evaluate import assemble
from training.judging.evaluation import REFERENCE_WIDTH_PX, Evaluation
from training.judging.predictions import LEAST_SCORE, Found, Predictions, most_detections

HEIGHTS_PX = (*pairwise((0.0, 8.0, 12.0, 16.0, 24.0, 48.0, 96.0, math.inf)), (0.0, math.inf))
LEAST_HEIGHTS_PX = (0.0, 5.0, 8.0, 24.0)
FAR_PX, LARGE_PX = (8.0, 12.0), (24.0, 48.0)
PRECISIONS = (0.8, 0.85, 0.9, 0.95)
"""Precisions at which the recall of FAR_PX is told, with one threshold for all classes."""
TOUCHES = 0.1
CROP_PX, CROPS_A_ROW, MOST_CROPS = 144, 12, 120
DEFINITIONS = {
    'recall on drives': 'by depth, of cones at least half visible that the renderer labels by '
    'default (box from 4 px); found: right class, IoU 0.5',
    'precision on drives': f'a box of IoU {ON_A_CONE} or more with any cone, labelled or not, is '
    'no false alarm; strict: right class and IoU 0.5 with any cone',
    'near cones': f'rendered stills of seed {NEAR_SEED}, each with a camera of its own: recall of '
    f'cones at least half visible and {NEAR_PX:g} px high in the picture scaled to 1280 px width; '
    'found: right class, IoU 0.5',
    'recall and precision on pictures': "strict, at the card's thresholds, by box height in px of "
    'the picture scaled to the width named; a box counts at the height of its cone, or at its own '
    'where it is of none; boxes of a class that the set has no label of count where they touch one',
    'mAP50': f'of all scores from {LEAST_SCORE}, over the classes that the set has, or the four '
    'colours of those; 95 % intervals: bootstrap over blocks of pictures',
    'touch no label': f'IoU below {TOUCHES} with every label of any class',
}


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSet:
    """width_px: of the pictures that heights refer to. block: consecutive file numbers."""

    split: LabelledSplit
    width_px: float
    block: int

    @property
    def name(self) -> str:
        return self.split.data.name

    def evaluate(self, detector: ConeDetector, filters: Filters) -> Evaluation:
        """Match what is found with the labels."""
        card, info, split = detector.card, detector.engine.info, self.split
        frames = (Frame(read_picture(path)) for path in split.paths)
        there = {split.class_names[index] for index in split.classes_there()}
        known = np.array([name in there for name in card.class_names])
        most = most_detections(split)
        pictures = []
        for index, found in enumerate(search(detector, frames, filters)):
            touched = best_overlaps(found, split.truth_box_px(index)) >= TOUCHES
            pictures.append(Found(found[known[found.class_id] | touched][:most]))
        predictions = Predictions(
            card.class_names, tuple(pictures), info.network_sha256,
            (card.height_px, card.width_px), card.output_layout,
            f'{info.runtime} on {info.device}', info.precision
        )  # fmt: skip
        return assemble(Path(card.name), split, predictions, {})

    def matches(self, evaluation: Evaluation) -> Matches:
        """Its matches, with heights in pictures of width_px."""
        matches, by = evaluation.matches, self.width_px / REFERENCE_WIDTH_PX
        height_px, truth_height_px = matches.height_px * by, matches.truth_height_px * by
        return replace(matches, height_px=height_px, truth_height_px=truth_height_px)

    def touched(self, evaluation: Evaluation) -> Float32:
        """(D,) float32: how much each box overlaps a label, whatever its class."""
        touched = np.zeros_like(evaluation.detection_score)
        found = detections(evaluation)
        for index in range(len(self.split)):
            here = evaluation.detection_image == index
            touched[here] = best_overlaps(found[here], self.split.truth_box_px(index))
        return touched


def detections(evaluation: Evaluation) -> Detections:
    """All boxes of all pictures."""
    box, score = evaluation.detection_box_px, evaluation.detection_score
    return Detections(box, score, evaluation.detection_class)


def judge_boxes(
    figures: Figures, look: str, labelled: LabelledSet, evaluation: Evaluation
) -> tuple[int, int]:
    """Recall and precision by height, and what wrong boxes are.

    Returns how many large orange cones of LARGE_PX were found, of how many.
    """
    matches, name = labelled.matches(evaluation), labelled.name
    once = np.ones((1, len(labelled.split)), np.int32)
    counts = {
        band_name(*band): np.sum([c.counts(once, 0.0)[:, 0] for c in rank(matches, *band)], axis=0)
        for band in HEIGHTS_PX
    }
    recall, precision = f'{name}: recall', f'{name}: precision'
    figures.add(recall, 'cones', {band: int(cones) for band, (cones, _, _) in counts.items()})
    figures.add(recall, look, {band: float(share(c[2], c[0])) for band, c in counts.items()})
    figures.add(precision, look, {band: float(share(c[2], c[1])) for band, c in counts.items()})
    wrong = evaluation.detection_match[:, 0] < 0
    other_class = wrong & (evaluation.detection_overlaps >= 0)
    nowhere = wrong & (labelled.touched(evaluation) < TOUCHES)
    kinds = {
        'right': ~wrong,
        'of another class': other_class,
        'loose, or a second one': wrong & ~other_class & ~nowhere,
        'touch no label': nowhere,
    }
    figures.add(f'{name}: boxes', look, {kind: int(these.sum()) for kind, these in kinds.items()})
    large = rank(matches, *LARGE_PX)[labelled.split.class_names.index(CLASS_NAMES[LARGE_ORANGE])]
    return int(large.correct[:, 0].sum()), int(large.truths.sum())


def judge_ranking(
    figures: Figures, look: str, labelled: LabelledSet, detector: ConeDetector
) -> None:
    """Mean AP50 from each least height, and the curve of far cones, over all scores."""
    everything = Filters(thresholds=dict.fromkeys(detector.card.class_names, LEAST_SCORE))
    evaluation = labelled.evaluate(detector, everything)
    matches, (group, unit) = labelled.matches(evaluation), evaluation.groups(labelled.block)
    if not group.any():
        sys.exit(f'{labelled.name} is one {unit}: an interval needs two. Give a smaller BLOCK.')
    tail = expanded_tail(int(group.max()) + 1)
    once = np.ones((1, len(labelled.split)), np.int32)
    title = f'{labelled.name}: mAP50 (drawn: {group.max() + 1} times a {unit})'
    rows: dict[str, dict[str, Any]] = {}
    for least_px in LEAST_HEIGHTS_PX:
        ranked = {
            own: each
            for own, each in zip(evaluation.class_names, rank(matches, least_px), strict=True)
            if each.truths.any()
        }
        colours = [each for own, each in ranked.items() if own != CLASS_NAMES[UNKNOWN]]
        for which, some in (('all classes', [*ranked.values()]), ('colours', colours)):
            interval = resampled(partial(map50, some), group, 1000, tail=tail)
            rows.setdefault(which, {})[band_name(least_px, math.inf)] = interval
        for own, each in ranked.items():
            ap50 = float(each.average_precisions(once, 1)[0, 0])
            rows.setdefault(short_name(own), {})[band_name(least_px, math.inf)] = ap50
    for which, values in rows.items():
        figures.add(title, f'{look}, {which}', values)
    title, far = f'{labelled.name}: {band_name(*FAR_PX)}', rank(matches, *FAR_PX)
    score = np.concatenate([each.score[each.counted[:, 0]] for each in far])
    correct = np.concatenate([each.correct[each.counted[:, 0], 0] for each in far])
    hits = correct[np.argsort(-score, kind='stable')].cumsum()
    thin = slice(None, None, 1 + len(hits) // 400)
    recall = hits / sum(each.truths.sum() for each in far)
    precision = hits / np.arange(1, len(hits) + 1)
    figures.draw(f'{title}, precision over recall', look, recall[thin], precision[thin])
    at_precision = {
        f'{least:.2f}': float(recall[precision >= least].max(initial=0)) for least in PRECISIONS
    }
    figures.add(f'{title}, recall at precision', look, at_precision)


def write_sheet(path: Path, labelled: LabelledSet, evaluation: Evaluation) -> None:
    """Draw the boxes that touch no label, best score first, with what is around them."""
    found, paths = detections(evaluation), labelled.split.paths
    order = np.argsort(-found.score, kind='stable')
    order = order[labelled.touched(evaluation)[order] < TOUCHES][:MOST_CROPS]
    rows = -(-len(order) // CROPS_A_ROW)
    sheet = np.zeros((max(rows, 1), CROPS_A_ROW, CROP_PX, CROP_PX, 3), np.uint8)
    for place, index in enumerate(order.tolist()):
        box = found.xyxy_px[index]
        side_px = max(3 * float((box[2:] - box[:2]).max()), 32.0)
        by, corner = CROP_PX / side_px, (box[:2] + box[2:] - side_px) / 2
        move = np.column_stack([np.eye(2), -corner]) * by
        picture = read_picture(paths[evaluation.detection_image[index]])
        crop = cv2.warpAffine(picture, move, (CROP_PX, CROP_PX))
        left, top, right, bottom = ((box - [*corner, *corner]) * by).round().astype(int).tolist()
        name = evaluation.class_names[found.class_id[index]]
        cv2.rectangle(crop, (left, top), (right, bottom), class_colour(name), 1)
        draw_caption(crop, f'{short_name(name)} {found.score[index]:.2f}')
        sheet[divmod(place, CROPS_A_ROW)] = crop
    picture = np.ascontiguousarray(sheet.swapaxes(1, 2)).reshape(-1, CROPS_A_ROW * CROP_PX, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_picture('.png', picture))


def raised(card: ModelCard, by: float) -> ModelCard:
    """The card with this added to all of its thresholds."""
    thresholds, *views = (
        {name: min(max(score + by, 0.0), 1.0) for name, score in least.items()}
        for least in (card.thresholds, *card.view_thresholds.values())
    )
    of_views = dict(zip(card.view_thresholds, views, strict=True))
    return replace(card, thresholds=thresholds, view_thresholds=of_views)


def read_clip(path: Path) -> list[Frame]:
    """Read all pictures; the first that cannot be read ends the run."""
    frames = []
    for each in open_source(path).frames:
        if not isinstance(each, Frame):
            sys.exit(f'{each.source}: {each.reason}')
        frames.append(each)
    return frames


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--bundle', type=Path, help='(the shipped model)')
    add('--precision', choices=get_args(Precision), help='(INT8, else FP32)')
    add('--threads', type=int, default=1)
    add('--views', nargs='+', choices=get_args(Views), default=get_args(Views))
    add('--raise', dest='raised', type=float, nargs='+', default=[0.0],
        help="added to each of the card's thresholds; each is judged")  # fmt: skip
    add('--seeds', type=int, nargs='*', default=list(range(9100, 9110)))
    add('--pictures', type=int, default=6, help='of each seed, one in 2 s (6)')
    add('--near', type=int, default=60, help='stills of near cones, of each kind (60)')
    add('--data', nargs=3, action='append', default=[], metavar=('FOLDER', 'WIDTH', 'BLOCK'),
        help='YOLO data set, whose split test is judged')  # fmt: skip
    add('--clip', type=Path, help='pictures or a video, whose boxes of orange_cone are counted')
    add('--region', type=float, nargs='+', default=(), help='of the clip, too')
    add('--page', type=Path, help='HTML to write')
    add('--sheets', type=Path, help='folder for crops of the boxes that touch no label')
    args = parser.parse_args(argv)
    bundle = read_bundle(args.bundle)
    engine = open_engine(bundle, threads=args.threads, precision=args.precision)
    drives = [picture for seed in args.seeds for picture in render_drive(seed, args.pictures)]
    sets = [LabelledSet(read_split(Path(f), 'test'), float(w), int(b)) for f, w, b in args.data]
    clip = read_clip(args.clip) if args.clip else []
    near = render_near(args.near)
    figures = Figures()
    for views, each in product(args.views, sets):
        judge_ranking(figures, views, each, ConeDetector(bundle.card, engine, views))
    for views, by in product(args.views, args.raised):
        look = f'{views} {by:+g}' if by else views
        detector = ConeDetector(raised(bundle.card, by), engine, views)
        if drives:
            found = search(detector, [each.frame for each in drives], Filters())
            judge_drives(figures, look, list(zip(found, drives, strict=True)))
        if near:
            judge_near(figures, look, near, detector)
        large: dict[str, tuple[int, int]] = {}
        for each in sets:
            evaluation = each.evaluate(detector, Filters())
            large[each.name] = judge_boxes(figures, look, each, evaluation)
            if args.sheets:
                write_sheet(args.sheets / f'{each.name} {look}.png', each, evaluation)
        if sets:
            right, cones = map(sum, zip(*large.values(), strict=True))
            pooled = {'cones': cones, 'recall': share_interval(right, cones)}
            of_each = {name: f'{found} of {there}' for name, (found, there) in large.items()}
            figures.add(f'large orange, {band_name(*LARGE_PX)}', look, pooled | of_each)
        if clip:
            found = search(detector, clip, Filters(classes=(CLASS_NAMES[ORANGE],)))
            count = {'everywhere': sum(map(len, found))}
            if args.region:
                inside = Filters(region=tuple(args.region))
                count['in the region'] = sum(
                    len(inside.apply(cones, bundle.card, frame.width_px, frame.height_px))
                    for cones, frame in zip(found, clip, strict=True)
                )
            figures.add('clip: boxes of orange_cone', look, count)
    engine.close()
    figures.print()
    info = engine.info
    told = {'runtime': info.runtime, 'precision': info.precision, 'sha256': info.network_sha256}
    facts = {'machine': describe_host(), 'bundle': bundle.card.name, 'network': told}
    write_result(args.json, {**facts, 'definitions': DEFINITIONS, **figures.to_json()})
    if args.page:
        sections = [Section('', figures.blocks())]
        write_page(args.page, Page('How far it sees', wide=True, sections=sections))
    return 0


if __name__ == '__main__':
    sys.exit(main())
