"""Rendered pictures for range.py and positions.py: drives, for one eye or two, and near cones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
from output import Figures
from tqdm import tqdm

from cone_perception.accuracy.average_precision import band_name, share
from cone_perception.accuracy.intervals import share_interval
from cone_perception.accuracy.matching import Bool, box_iou, match_detections
from cone_perception.filters import Filters
from cone_perception.pipeline import ConeDetector
from cone_perception.types import Detections, Float32, Frame, Positions
from training.simulate.bag import DriveFrame, drive_frames
from training.simulate.dataset import render_picture
from training.simulate.renderer import Label
from training.simulate.rig.settings import RigSettings
from training.simulate.scene import SimulateSettings

EDGES_M = range(0, 40, 5)
ON_A_CONE = 0.3
NEAR_PX, NEAR_SEED = 96.0, 77
NEAR = {
    'Formula Student cones': {'makes': 0.0},
    'other makes': {'makes': 1.0},
    'portrait, Formula Student cones': {'makes': 0.0, 'width_px': 720, 'height_px': 1280},
    'portrait, other makes': {'makes': 1.0, 'width_px': 720, 'height_px': 1280},
}


def best_overlaps(found: Detections, truth_box: Float32) -> Float32:
    """(N,) float32: IoU of each box with the cone that it overlaps most; 0 without a cone."""
    best: Float32 = box_iou(found.xyxy_px, truth_box).max(axis=1, initial=0)
    return best


def search(detector: ConeDetector, frames: Iterable[Frame], filters: Filters) -> list[Detections]:
    """What each frame shows, as a still."""
    progress = tqdm(frames, detector.views, unit=' pictures')
    return [detector.detect([frame], filters)[0][0] for frame in progress]


@dataclass(frozen=True, slots=True, eq=False)
class DrivePicture:
    """truth: every cone of which a pixel is in view. depth_m: (N,). counts: (N,), for recall."""

    frame: Frame
    truth: Detections
    depth_m: Float32
    counts: Bool

    @classmethod
    def of(cls, frame: Frame, labels: Sequence[Label]) -> DrivePicture:
        box = np.array([label.xyxy_px for label in labels], np.float32).reshape(-1, 4)
        class_id = np.array([label.class_id for label in labels], np.int64)
        visible = np.array([label.visible for label in labels], np.float32)
        depth_m = np.array([label.depth_m for label in labels], np.float32)
        least_px = SimulateSettings().min_height_px * frame.width_px / 1280
        large = box[:, 2:] - box[:, :2] >= (0.4 * least_px, least_px)
        truth = Detections(box, np.ones_like(visible), class_id)
        return cls(frame, truth, depth_m, (visible >= 0.5) & large.all(axis=1))


def render_drive(seed: int, pictures: int) -> list[DrivePicture]:
    """Render a drive, a picture every two seconds."""
    settings = replace(SimulateSettings(), min_height_px=1e-3, min_visible=0.0)
    drive = tqdm(drive_frames(settings, seed, 2.0 * pictures, 0.5), f'drive {seed}', pictures)
    return [DrivePicture.of(Frame(each.image), each.labels) for each in drive]


def judge_drives(
    figures: Figures, look: str, pairs: Sequence[tuple[Detections, DrivePicture]]
) -> None:
    """Recall by depth, and precision; see DEFINITIONS."""
    cones = hits = np.zeros(len(EDGES_M) - 1, np.int64)
    right = on_a_cone = 0
    for found, drive in pairs:
        cone = match_detections(found, drive.truth)
        hit = np.isin(np.arange(len(drive.truth)), cone)
        cones = cones + np.histogram(drive.depth_m[drive.counts], EDGES_M)[0]
        hits = hits + np.histogram(drive.depth_m[drive.counts & hit], EDGES_M)[0]
        right += int((cone >= 0).sum())
        on_a_cone += int((best_overlaps(found, drive.truth.xyxy_px) >= ON_A_CONE).sum())
    boxes = sum(len(found) for found, _ in pairs)
    bins = [f'{low}-{high} m' for low, high in pairwise(EDGES_M)]
    title, recall = 'drives: recall', share(hits.astype(np.float64), cones)
    blank = dict.fromkeys(('precision', 'strict', 'false', 'boxes'), '')
    figures.add(title, 'cones', dict(zip(bins, cones.tolist(), strict=True)) | blank)
    shares = on_a_cone / max(boxes, 1), right / max(boxes, 1)
    last = dict(zip(blank, (*shares, boxes - on_a_cone, boxes), strict=True))
    figures.add(title, look, dict(zip(bins, recall.tolist(), strict=True)) | last)
    figures.draw('drives: recall over metres', look, np.add(EDGES_M[:-1], 2.5), recall)


def render_near(pictures: int) -> dict[str, list[DrivePicture]]:
    """Stills of each kind of NEAR, of which only near cones count."""
    rendered: dict[str, list[DrivePicture]] = {}
    for (kind, changes), index in tqdm([*product(NEAR.items(), range(pictures))], 'near cones'):
        settings = replace(SimulateSettings(), **changes)
        taken = render_picture(settings, NEAR_SEED, 'test', index)
        still = DrivePicture.of(Frame(taken.image), taken.labels)
        near = still.truth.height_px >= NEAR_PX * settings.width_px / 1280
        rendered.setdefault(kind, []).append(replace(still, counts=still.counts & near))
    return rendered


def judge_near(
    figures: Figures, look: str, near: dict[str, list[DrivePicture]], detector: ConeDetector
) -> None:
    """Recall of each kind."""
    cones, recall = {}, {}
    for kind, stills in near.items():
        found = search(detector, [still.frame for still in stills], Filters())
        hits = 0
        for boxes, still in zip(found, stills, strict=True):
            cone = match_detections(boxes, still.truth)
            hits += int(still.counts[cone[cone >= 0]].sum())
        cones[kind] = sum(int(still.counts.sum()) for still in stills)
        recall[kind] = share_interval(hits, cones[kind])
    title = f'near cones, {band_name(NEAR_PX, math.inf)}: recall'
    figures.add(title, 'cones', cones)
    figures.add(title, look, recall)


@dataclass(frozen=True, slots=True, eq=False)
class DrivePair:
    """Both eyes at one moment. place: where the cones of the left eye's labels stand."""

    left: DriveFrame
    right: DriveFrame
    truth: Detections
    place: Positions

    @property
    def frames(self) -> tuple[Frame, Frame]:
        return Frame(self.left.image), Frame(self.right.image)


def render_pairs(seeds: Iterable[int], pictures: int, rig: RigSettings) -> Iterator[DrivePair]:
    """Render drives of a stereo rig, a pair every two seconds."""
    settings = replace(SimulateSettings(), min_height_px=1e-3, min_visible=0.0, rig=rig)
    for seed in seeds:
        drive = drive_frames(settings, seed, 2.0 * pictures, 0.5, stereo=True)
        for left, right in tqdm(zip(drive, drive, strict=True), f'drive {seed}', pictures):
            truth = DrivePicture.of(Frame(left.image), left.labels).truth
            feet_m = left.feet_m('base')
            exact = np.zeros((len(feet_m), 3, 3))
            source = np.ones(len(feet_m), np.int64)
            yield DrivePair(left, right, truth, Positions(feet_m, exact, source, 'base_footprint'))
