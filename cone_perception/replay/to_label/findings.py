"""A drive -> what a model found in it: run on its pictures, or read from a replay's result."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cone_perception.detect import open_detector
from cone_perception.engines.events import print_warning
from cone_perception.errors import SourceError
from cone_perception.files import write_whole
from cone_perception.filters import Filters
from cone_perception.model_card import Bundle
from cone_perception.pictures.sources import Unreadable, read_bag_frames
from cone_perception.pipeline import ConeDetector
from cone_perception.replay.drive.open import bag_sha256
from cone_perception.replay.figures.accuracy import Answers
from cone_perception.replay.figures.result import ReplayResult, cones_from
from cone_perception.replay.to_label.unsure import MARGIN
from cone_perception.replay.traces import Camera, Drive, FrameTrace
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Frame


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """The cones that a model found in a drive.

    frames: `found` goes below the thresholds where the model was run for this.
    thresholds: per class name. known: see `find_doubts`; the labels too, where it is known.
    """

    bag: Path
    cameras: tuple[Camera, ...]
    frames: Sequence[FrameTrace]
    class_names: tuple[str, ...]
    thresholds: Mapping[str, float]
    known: Answers | None


def drive_of(result: ReplayResult, bag: Path) -> Drive:
    """The drive of a replay. Raises SourceError when it was another bag."""
    sha256 = bag_sha256(bag)
    if sha256 != result.bag['sha256']:
        raise SourceError(
            f'{bag} is not the bag of this result, which was {result.bag["path"]}: '
            f'its data has sha256 {sha256[:12]}..., not {result.bag["sha256"][:12]}...'
        )
    return Drive(
        bag,
        sha256,
        tuple(Camera(**camera) for camera in result.bag['cameras']),
        result.bag['frames'],
        result.bag['duration_s'],
        result.bag['storage'],
        result.truth,
    )


def findings_of(result: ReplayResult, drive: Drive) -> Findings:
    """Each frame as the first pass that answered it has it."""
    frames: dict[tuple[str, int], FrameTrace] = {}
    for one in result.passes:
        for frame in one:
            earlier = frames.get((frame.camera, frame.index))
            if earlier is None or earlier.found is None:
                frames[frame.camera, frame.index] = frame
    return Findings(
        drive.bag,
        drive.cameras,
        list(frames.values()),
        tuple(result.model['class_names']),
        result.model['thresholds'],
        result.truth,
    )


def run_model(args: argparse.Namespace, drive: Drive, bundle: Bundle, log: Path) -> Findings:
    card = bundle.card
    lower = {name: max(value - MARGIN, 0.01) for name, value in card.thresholds.items()}
    frames = list(_answer(args, drive, bundle, Filters(lower), log))
    return Findings(
        drive.bag, drive.cameras, frames, card.class_names, card.thresholds, drive.truth
    )


def run_reference(
    args: argparse.Namespace, drive: Drive, found: Findings, reference: Bundle, log: Path
) -> Answers:
    """Its answers with the class numbers of the model; cones of classes it lacks are left out."""
    names = list(found.class_names)
    number = np.array(
        [names.index(n) if n in names else -1 for n in reference.card.class_names], np.int64
    )
    frames = list(_answer(args, drive, reference, Filters(), log))
    stamps = Counter((frame.camera, frame.stamp_ns) for frame in frames)
    answers = {}
    for frame in frames:
        # Which of several frames with one stamp is meant cannot be told.
        if frame.found is not None and stamps[frame.camera, frame.stamp_ns] == 1:
            class_id = number[frame.found.class_id]
            same = Detections(frame.found.xyxy_px, frame.found.score, class_id)
            answers[frame.camera, frame.stamp_ns] = same[class_id >= 0]
    return answers


def _answer(
    args: argparse.Namespace, drive: Drive, bundle: Bundle, filters: Filters, log: Path
) -> Iterator[FrameTrace]:
    """Each picture of the drive with its cones; what the log has already is not searched again."""
    earlier = _read_log(log)
    known = {(frame.camera, frame.index) for frame in earlier}
    yield from earlier
    if len(known) >= drive.frames:
        return
    settings = DetectorSettings(device=args.device, engine=args.engine)
    with (
        open_detector(bundle, settings) as detector,
        log.open('a', encoding='utf-8', buffering=1) as lines,
        tqdm(
            total=drive.frames,
            initial=len(known),
            desc=bundle.card.name,
            unit='picture',
            disable=None,
        ) as bar,
    ):
        for camera in drive.cameras:
            try:
                for index, picture in enumerate(read_bag_frames(drive.bag, camera.topic)):
                    if (camera.name, index) not in known:
                        frame = _search(detector, filters, camera.name, index, picture)
                        lines.write(_log_line(frame))
                        bar.update()
                        yield frame
            except SourceError as error:  # what comes before the damage is worth a label too
                print_warning(str(error))


def _search(
    detector: ConeDetector, filters: Filters, camera: str, index: int, picture: Frame | Unreadable
) -> FrameTrace:
    if isinstance(picture, Unreadable):
        tqdm.write(f'left out: {picture.source}: {picture.reason}', file=sys.stderr)
        return FrameTrace(camera, index, 0, 'failed', 0, reason=picture.reason)
    (found,), _ = detector.detect([picture], filters)
    return FrameTrace(camera, index, picture.stamp_ns, 'answered', 0, found=found)


def _log_line(frame: FrameTrace) -> str:
    found = frame.found
    cones = None
    if found is not None:
        columns = (found.xyxy_px, found.score[:, None], found.class_id[:, None])
        cones = np.concatenate(columns, axis=1).round(4).tolist()
    return json.dumps([frame.camera, frame.index, frame.stamp_ns, cones]) + '\n'


def _read_log(log: Path) -> list[FrameTrace]:
    """Read the answers of an earlier run; a last line that was cut off is taken away."""
    if not log.is_file():
        return []
    text = log.read_bytes()
    whole = text[: text.rfind(b'\n') + 1]
    if len(whole) < len(text):
        write_whole(log, whole)
    return [_frame_of(json.loads(line)) for line in whole.splitlines()]


def _frame_of(line: Sequence[Any]) -> FrameTrace:
    camera, index, stamp_ns, cones = line
    if cones is None:
        return FrameTrace(camera, index, stamp_ns, 'failed', 0)
    return FrameTrace(camera, index, stamp_ns, 'answered', 0, found=cones_from(cones))
