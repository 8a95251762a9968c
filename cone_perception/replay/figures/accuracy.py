"""Accuracy of a replay: against the truth, another model, and themselves."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cone_perception.accuracy.average_precision import (
    RankedClass,
    band_name,
    mean_known,
    rank,
    share,
)
from cone_perception.accuracy.intervals import Float64, Int32, Interval, draw, percentile_interval
from cone_perception.accuracy.matching import Matches, find_errors, match_detections
from cone_perception.errors import SourceError
from cone_perception.filters import Filters
from cone_perception.pictures.sources import Unreadable, read_bag_frames
from cone_perception.pipeline import ConeDetector
from cone_perception.replay.figures.flicker import find_flicker
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.traces import Drive, FrameTrace, Pass
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections
from cone_perception.views import Horizon

Answers = Mapping[tuple[str, int], Detections]
"""(camera name, stamp_ns) -> cones; a picture without any has an entry without any."""

BANDS_PX = ((0.0, 16.0), (16.0, 32.0), (32.0, 64.0), (64.0, math.inf))
"""Box heights in source pixels that are judged apart."""

BLOCK_NS = 10**9
"""Frames whose stamps fall into the same second are alike and resampled together."""

RESAMPLES = 1000

WORST_MIN_HEIGHT_PX = 16.0
"""Cones lower than this are far, many, and missed by every model: they make no frame a bad one."""

WORST_APART_NS = BLOCK_NS // 2


class FrameFaults(NamedTuple):
    """The cones of a frame that were missed, found where none is, and not seen in it alone."""

    missed: Detections
    false: Detections
    gone: Detections

    def why(self, class_names: Sequence[str]) -> str:
        """`2 missed (blue_cone 1, yellow_cone 1), 1 false (blue_cone 1)`; '' without a fault."""
        told = []
        kinds = ('missed', 'false', 'vanished for this frame')
        for what, cones in zip(kinds, self, strict=True):
            counts = Counter(class_names[class_id] for class_id in sorted(cones.class_id.tolist()))
            listed = ', '.join(f'{name} {count}' for name, count in counts.items())
            told.append(f'{len(cones)} {what} ({listed})' if listed else '')
        *errors, gone = told
        return '; '.join(filter(None, (', '.join(filter(None, errors)), gone)))


class WorstFrame(NamedTuple):
    """A frame to be shown, and why. classes: indices of the classes of its faults."""

    frame: FrameTrace
    why: str
    classes: frozenset[int]


def accuracy_figures(
    passes: Sequence[Pass],
    truth: Answers,
    class_names: Sequence[str],
    thresholds: Mapping[str, float],
) -> dict[str, Interval]:
    """precision, recall, map50 (ap50 of one class): over all, per class, per band of box heights.

    `_sent`: of all frames sent, a lost one is as if nothing had been found in it. `_answered`: of
    those with an answer. Frames whose truth is not known, and matched ones, are not judged.
    precision, recall: at `thresholds`, IoU 0.5, all cones counted alike. map50: mean over the
    classes with truth of the average precision of what was *published*. Nothing below the node's
    thresholds is, so the curve ends at the recall reached there: it is lower than that of an
    evaluation of all scores, and comparable only between replays with the same thresholds.
    95 % intervals: bootstrap over seconds of the drive; what all passes and cameras saw in one
    second is one block. NaN where a figure or its interval has nothing to stand on.
    """
    frames = [frame for one in passes for frame in one.frames]
    rows = accuracy_rows(frames, truth, class_names, thresholds)
    return {name: interval_of(each) for name, each in rows.items()}


def least_scores(result: ReplayResult) -> dict[str, float]:
    """Class name -> least score that the node of a replay published, whatever view showed it."""
    settings = result.configuration.get('settings') or {}
    told = DetectorSettings(thresholds=tuple(settings.get('thresholds', ()))).filters.thresholds
    views = result.model.get('view_thresholds', {}).values()
    return least_of_views(result.model['thresholds'], views, told)


def least_of_views(
    thresholds: Mapping[str, float],
    views: Collection[Mapping[str, float]],
    told: Mapping[str, float],
) -> dict[str, float]:
    """Class name -> least threshold, rounded as a float32 score.

    thresholds, views: the card's, of the whole picture and of other views. told: by a person; it
    holds for every view.
    """
    least = {
        name: min([value, *(view.get(name, value) for view in views)])
        for name, value in thresholds.items()
    }
    return {name: float(np.float32(value)) for name, value in {**least, **told}.items()}


def accuracy_rows(
    frames: Iterable[FrameTrace],
    truth: Answers,
    class_names: Sequence[str],
    thresholds: Mapping[str, float],
) -> dict[str, Float64]:
    """The same as (1 + R,) arrays: the value, then that of each resample of the drive's seconds.

    Frames of the same stamps make the same resamples, so that two models can be paired row by row.
    R is 0 with less than two seconds.
    """
    judged = [
        (frame, truth[frame.camera, frame.stamp_ns])
        for frame in frames
        if frame.wanted and (frame.camera, frame.stamp_ns) in truth
    ]
    answered = np.array([frame.found is not None for frame, _ in judged], bool)
    weights = frame_weights([frame.stamp_ns for frame, _ in judged])
    matches = Matches.of(
        ((frame.found or Detections.empty(), cones) for frame, cones in judged), len(class_names)
    )
    least = [thresholds[name] for name in class_names]
    everything = list(range(len(class_names)))
    rows: dict[str, Float64] = {}
    bands = {(0.0, math.inf): {'': everything}}
    bands[0.0, math.inf] |= {f' {name}': [i] for i, name in enumerate(class_names)}
    bands |= {band_px: {f' {band_name(*band_px)}': everything} for band_px in BANDS_PX}
    for band_px, parts in bands.items():
        ranked = rank(matches, *band_px)
        sent = kept = _accuracy(ranked, weights, least)
        if not answered.all():
            kept = _accuracy(ranked, [each * answered for each in weights], least)
        for whose, (counts, ap50) in (('sent', sent), ('answered', kept)):
            for of, classes in parts.items():
                truths, found, correct = counts[:, :, classes].sum(axis=2)
                rows[f'precision_{whose}{of}'] = share(correct, found)
                rows[f'recall_{whose}{of}'] = share(correct, truths)
                mean = 'map50' if classes is everything else 'ap50'
                rows[f'{mean}_{whose}{of}'] = mean_known(ap50[:, classes])
    return rows


def agreement_figures(passes: Sequence[Pass], reference: Answers) -> dict[str, Interval]:
    """agreement_precision, agreement_recall, agreement_f1 with another model's answers.

    Of the frames that both have answered; class and place must agree, IoU at least 0.5. Precision:
    share of our cones that the reference has too; recall: share of its cones that we have.
    """
    stamps_ns, counts = [], []
    for frame in (frame for one in passes for frame in one.frames):
        theirs = reference.get((frame.camera, frame.stamp_ns))
        if frame.found is not None and theirs is not None:
            right = int((match_detections(frame.found, theirs) >= 0).sum())
            stamps_ns.append(frame.stamp_ns)
            counts.append((right, len(frame.found), len(theirs)))
    same, ours, both = _sums(np.array(counts, np.float64).reshape(-1, 3), stamps_ns).T
    return {
        'agreement_precision': interval_of(share(same, ours)),
        'agreement_recall': interval_of(share(same, both)),
        'agreement_f1': interval_of(share(2 * same, ours + both)),
    }


def consistency_figures(passes: Sequence[Pass], class_names: Sequence[str]) -> dict[str, Interval]:
    """flicker_share, also per class, and detections_per_frame, of the frames answered.

    flicker_share: of the cones seen in the frames before and after one, the share not seen in it,
    see `find_flicker`.
    """
    classes = len(class_names)
    answered = [frame for one in passes for frame in one.frames if frame.found is not None]
    flickers = {each.frame: each for one in passes for each in find_flicker(one.frames)}
    counts = np.zeros((len(answered), 2 + 2 * classes))
    for row, frame in zip(counts, answered, strict=True):
        row[:2] = 1, len(frame.found or ())
        if each := flickers.get(frame):
            of_classes = (each.steady_class_id, each.gone.class_id)
            row[2:] = np.ravel([np.bincount(ids, minlength=classes) for ids in of_classes])
    sums = _sums(counts, [frame.stamp_ns for frame in answered])
    steady, gone = np.split(sums[:, 2:], 2, axis=1)
    figures = {
        'flicker_share': interval_of(share(gone.sum(axis=1), (gone + steady).sum(axis=1))),
        'detections_per_frame': interval_of(share(sums[:, 1], sums[:, 0])),
    }
    for index, name in enumerate(class_names):
        of_class = share(gone[:, index], gone[:, index] + steady[:, index])
        figures[f'flicker_share {name}'] = interval_of(of_class)
    return figures


def find_faults(
    frames: Sequence[FrameTrace], truth: Answers | None, min_height_px: float
) -> dict[FrameTrace, FrameFaults]:
    """Find the faults of each frame.

    Misses and false finds: of cones from `min_height_px` up, in answered frames of known truth.
    """
    none = Detections.empty()
    gone = {each.frame: each.gone for each in find_flicker(frames)}
    faults = {}
    for frame in frames:
        cones = (truth or {}).get((frame.camera, frame.stamp_ns))
        wrong = (none, none)
        if cones is not None and frame.found is not None:
            wrong = find_errors(frame.found, cones, min_height_px)
        faults[frame] = FrameFaults(*wrong, gone.get(frame, none))
    return faults


def worst_frames(
    frames: Sequence[FrameTrace], truth: Answers | None, class_names: Sequence[str], count: int = 12
) -> list[WorstFrame]:
    """Frames to show: most misses and false finds, most cones that vanished, slowest; in turns.

    Misses and false finds are of cones from WORST_MIN_HEIGHT_PX up. Of each kind the worst first,
    half a second apart at least. A frame that is among the worst in several ways is shown once,
    with all of its reasons.
    """
    faults = find_faults(frames, truth, WORST_MIN_HEIGHT_PX)
    kinds: tuple[dict[FrameTrace, float], ...] = (
        {frame: len(each.missed) + len(each.false) for frame, each in faults.items()},
        {frame: len(each.gone) for frame, each in faults.items()},
        {frame: frame.latency_ms or 0.0 for frame in frames},
    )
    turns = zip_longest(*(islice(_apart(kind), count) for kind in kinds))
    chosen = dict.fromkeys(frame for turn in turns for frame in turn if frame is not None)
    known_ms = [ms for frame in frames if (ms := frame.latency_ms) is not None]
    slow_ms = 1.5 * float(np.median(known_ms)) if known_ms else math.inf
    shown = []
    for frame in islice(chosen, count):
        why, latency_ms = faults[frame].why(class_names), frame.latency_ms
        if latency_ms is not None and (latency_ms > slow_ms or not why):
            why = '; '.join(filter(None, (why, f'answered after {latency_ms:.1f} ms')))
        classes = np.concatenate([cones.class_id for cones in faults[frame]]).tolist()
        shown.append(WorstFrame(frame, why, frozenset(classes)))
    return shown


def answer_pictures(
    drive: Drive,
    detector: ConeDetector,
    filters: Filters,
    title: str,
    known: Collection[tuple[str, int]] = (),
    others: Iterable[FrameTrace] = (),
) -> Iterator[FrameTrace]:
    """Answer each picture of the drive, one after another, without times.

    title: of the progress bar. known: camera and index of the pictures that are left out. others:
    answers to the same pictures: the second look lies where theirs lay. Where they had none, a
    picture's own first look says where, as in a still.
    Raises SourceError, EngineError, ModelError.
    """
    bands_px = {(f.camera, f.index): f.band_px for f in others if f.band_px is not None}
    with tqdm(
        total=drive.frames, initial=len(known), desc=title, unit='picture', disable=None
    ) as bar:
        for camera in drive.cameras:
            try:
                for index, picture in enumerate(read_bag_frames(drive.bag, camera.topic)):
                    if (camera.name, index) in known:
                        continue
                    bar.update()
                    if isinstance(picture, Unreadable):
                        why = f'{picture.source}: {picture.reason}'
                        yield FrameTrace(camera.name, index, 0, 'failed', 0, reason=why)
                        continue
                    band_px = bands_px.get((camera.name, index))
                    horizons = []
                    if band_px is not None:
                        horizons = [Horizon(fixed=band_px / picture.height_px)]
                    (found,), _ = detector.detect([picture], filters, horizons)
                    stamp_ns = picture.stamp_ns
                    yield FrameTrace(camera.name, index, stamp_ns, 'answered', 0, found=found)
            except SourceError:
                if not drive.problems:  # damage that is named there ends the replay too, no more
                    raise


def by_stamp(frames: Iterable[FrameTrace]) -> Answers:
    """The answers by stamp; of several frames with one stamp none can be told to be meant."""
    answers = [((f.camera, f.stamp_ns), f.found) for f in frames if f.found is not None]
    times = Counter(place for place, _ in answers)
    return {place: found for place, found in answers if times[place] == 1}


def reference_answers(
    drive: Drive, detector: ConeDetector, filters: Filters, others: Iterable[FrameTrace] = ()
) -> Answers:
    """Another model's answer to every picture of the drive that can be read and has its own stamp.

    others: as in `answer_pictures`. Raises SourceError, EngineError, ModelError.
    """
    return by_stamp(answer_pictures(drive, detector, filters, 'reference', others=others))


def _accuracy(
    ranked: Sequence[RankedClass], weights: Sequence[Int32], least: Sequence[float]
) -> tuple[Float64, Float64]:
    """(3, 1 + R, classes) cones, detections of the least score, right ones; (1 + R, classes) AP50.

    weights: as `frame_weights` gives them. least: of each class.
    """
    counts = [
        np.stack([c.counts(some, score) for c, score in zip(ranked, least, strict=True)], axis=2)
        for some in weights
    ]
    ap50 = [np.stack([c.average_precisions(some, 1)[:, 0] for c in ranked], 1) for some in weights]
    return np.concatenate(counts, axis=1), np.concatenate(ap50)


def frame_weights(stamps_ns: Sequence[int]) -> list[Int32]:
    """Multiplicities of the frames: a row of ones, then those of each resample.

    Frames of one second are drawn together. There is no resample where all are of one second.
    """
    stamps = np.array(stamps_ns, np.int64)
    once = np.ones((1, len(stamps)), np.int32)
    seconds = (stamps - stamps.min(initial=np.iinfo(np.int64).max)) // BLOCK_NS
    number = np.unique(seconds, return_inverse=True)[1]
    if number.max(initial=0) == 0:
        return [once]
    return [once, *draw(number, RESAMPLES, seed=0)]


def _sums(counts: Float64, stamps_ns: Sequence[int]) -> Float64:
    """(1 + R, K) sums of (frames, K) counts, weighed as by `frame_weights`."""
    return np.concatenate([some @ counts for some in frame_weights(stamps_ns)])


def interval_of(rows: Float64) -> Interval:
    """The first row's value, and the interval of the others."""
    return percentile_interval(float(rows[0]), rows[1:])


def _apart(weights: Mapping[FrameTrace, float]) -> Iterator[FrameTrace]:
    """Frames from the weightiest on, those left out that are close in time to one before."""
    taken: dict[str, list[int]] = defaultdict(list)
    for frame in sorted(filter(weights.get, weights), key=lambda frame: -weights[frame]):
        if all(abs(frame.stamp_ns - other) >= WORST_APART_NS for other in taken[frame.camera]):
            taken[frame.camera].append(frame.stamp_ns)
            yield frame
