r"""How far off positions are, and how honest their covariances: rendered drives of a stereo rig.

    python benchmarks/positions.py --json positions.json
    python benchmarks/positions.py --watch --json watch.json
    python benchmarks/positions.py --fit

Drives are rendered from seeds that nobody tuned on; with --fit the constants of
cone_perception/positions are fitted on others and printed. Every picture is a still to the network;
the calibration watch sees them one after the other. --watch judges that watch on drives of 40 s,
each with a watch of its own: its light and blur stay. docs/results/positions.md has the figures,
the JSON the definitions. Needs the extras cpu and train.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, ClassVar, get_args

import cv2
import numpy as np
from fit_positions import fit_constants
from output import Figures, benchmark_parser, print_table, write_result
from renders import DrivePair, render_pairs

from cone_perception.accuracy.matching import match
from cone_perception.engines.machine import describe_host
from cone_perception.engines.open import open_engine
from cone_perception.filters import Filters
from cone_perception.model_card import read_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.positions.camera import CameraModel
from cone_perception.positions.locate import GROUND, HEIGHT, STEREO, Locator
from cone_perception.positions.rig import Mount, Rig
from cone_perception.replay.figures.positions import PositionErrors, in_bins
from cone_perception.replay.traces import FrameTrace
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Frame, Positions, Precision
from cone_perception.views import Horizon
from training.simulate.bag import drive_frames
from training.simulate.camera import load_camera
from training.simulate.rig.settings import RigSettings
from training.simulate.scene import SimulateSettings

FIT_SEEDS, SEEDS = range(20000, 20060), range(21000, 21080)
WATCH_SEEDS, LAP_S, LAP_HZ = range(9211, 9223), 40.0, 5.0
SIGHTINGS = (300, 500, 1000, 1500, 2000, 3000)
TOPICS = ('/left/image', '/right/image')
CAMERA = 'left'
ALL, ALONE, HIGH = 'two eyes', 'one eye: height and ground', 'one eye: height of the box'
CENTRES, OFF, MENDED = 'box centres of both eyes', 'yaw off, not corrected', 'yaw off, corrected'
PUBLISHED = {'5 m': '0.19', '10 m': '0.46', '15 m': '1.16 (boxes), 0.68 (ORB)', '20 m': '1.37'}
"""Standard deviations of depth, metres, of ncridlig/ml4cv_project: real cones, in its car."""
WRONG_M = 1.0
DEFINITIONS = {
    'cones': 'those of the truth that a box shows, IoU 0.5 with any class, by true range: `10 m` '
    'is 7.5 to 12.5 m',
    'depth, lateral': 'error on the ground in base_footprint along the line from the camera to the '
    'cone, and square to it; metres, of the absolute value, but `std`, of the error',
    'inside': 'share of the depth errors within one and two of their own standard deviations',
    'NEES': 'normalised error squared on the ground, mean, over its expectation of 2',
    CENTRES: 'column of the left box less that of the right one of the same cone, of cones found '
    'in both eyes; which are the same is taken from the truth',
    'published': 'by ncridlig/ml4cv_project: standard deviation on real cones, not on renders',
}


def mounted() -> tuple[DetectorSettings, Mount]:
    """The mount of the simulated car."""
    camera = load_camera()
    pitch_deg = float(np.degrees(camera.pitch_rad))
    settings = DetectorSettings(mount_height_m=camera.position_m[2], mount_pitch_deg=pitch_deg)
    mount = Mount.of(settings)
    assert mount
    return settings, mount


class Judged:
    """Positions of several methods on the same pictures."""

    def __init__(self) -> None:
        self.traces: dict[str, list[FrameTrace]] = {}
        self.truth: dict[tuple[str, int], Detections] = {}
        self.places: dict[tuple[str, int], Positions] = {}

    def add(self, method: str, pair: DrivePair, found: Detections, positions: Positions) -> None:
        stamp_ns = pair.left.stamp_ns
        key = CAMERA, stamp_ns
        self.truth[key], self.places[key] = pair.truth, pair.place
        trace = FrameTrace(CAMERA, 0, stamp_ns, 'answered', 0, found=found, positions=positions)
        self.traces.setdefault(method, []).append(trace)

    def errors(self, method: str) -> PositionErrors:
        return PositionErrors.of(self.traces[method], self.truth, self.places, (0.0, 0.0))


class TimedCamera(CameraModel):
    """Counts the seconds that its patches took."""

    spent_s: ClassVar[float] = 0.0

    def rectify_patch(self, *args: Any) -> Any:
        started = time.perf_counter()
        patch = super().rectify_patch(*args)
        TimedCamera.spent_s += time.perf_counter() - started
        return patch

    @classmethod
    def eye(cls, model: CameraModel) -> TimedCamera:
        return cls(**{each.name: getattr(model, each.name) for each in fields(model)})


class Clock:
    """Milliseconds that locating took, by picture."""

    def __init__(self) -> None:
        TimedCamera.spent_s = 0.0
        self.cones: list[int] = []
        self.ms: list[float] = []

    def locate(self, locator: Locator, found: Detections, pair: DrivePair) -> Positions:
        left, right = pair.frames
        started = time.perf_counter()
        positions = locator.locate(found, left, right)
        self.ms.append((time.perf_counter() - started) * 1e3)
        self.cones.append(len(found))
        return positions

    def line(self) -> dict[str, float]:
        """Least squares: a part for each picture, and one for each cone."""
        x = np.column_stack([np.ones(len(self.ms)), self.cones])
        a_picture, a_cone = np.linalg.lstsq(x, np.array(self.ms))[0].tolist()
        mean = sum(self.ms) / max(sum(self.cones), 1)
        rectified = TimedCamera.spent_s * 1e3 / len(self.ms)
        return {
            'a picture': a_picture,
            'a further cone': a_cone,
            'all, a cone': mean,
            'of a picture: patches rectified': rectified,
        }


def by_centres(
    rig: Rig, mount: Mount, pair: DrivePair, found: Detections, right: Detections
) -> Positions:
    """Positions from the middles of both eyes' boxes of the same cone."""
    assert rig.right
    in_right = [label.cone for label in pair.right.labels]
    boxes = np.array([label.xyxy_px for label in pair.right.labels], np.float32).reshape(-1, 4)
    kinds = np.array([label.class_id for label in pair.right.labels], np.int64)
    middles = []
    for eye, each in ((rig.left, found), (rig.right, right)):
        box = each.xyxy_px.astype(np.float64) - 0.5
        middles.append(eye.rectify_points((box[:, :2] + box[:, 2:]) / 2))
    _, there = match(right.xyxy_px, right.class_id, boxes, kinds)
    column = {in_right[cone]: middles[1][row, 0] for row, cone in enumerate(there) if cone >= 0}
    _, here = match(found.xyxy_px, found.class_id, pair.truth.xyxy_px, pair.truth.class_id)
    labels = pair.left.labels
    other = [column.get(labels[cone].cone, np.nan) if cone >= 0 else np.nan for cone in here]
    apart_px = middles[0][:, 0] - np.array(other, np.float64) - rig.zero_px
    apart_px[~(apart_px > 0.3)] = np.nan
    depth_m = rig.left.fx_px * rig.baseline_m / apart_px
    xyz_m = rig.left.rays(middles[0]) * depth_m[:, None]
    source = np.where(np.isnan(depth_m), 0, STEREO)
    spread = np.tile(np.eye(3), (len(found), 1, 1))
    return mount.to_base(Positions(xyz_m, spread, source, ''))


def table_rows(errors: PositionErrors) -> dict[str, dict[str, Any]]:
    """Range -> figures of a method."""
    rows = {}
    for name, inside in list(in_bins(errors).items())[1:]:
        known = inside & (errors.source > 0)
        depth, across = errors.depth_m[known], errors.across_m[known]
        if not len(depth):
            continue
        rows[name.strip()] = {
            'cones': int(inside.sum()),
            'median': float(np.median(np.abs(depth))),
            'p90': float(np.percentile(np.abs(depth), 90)),
            'std': float(depth.std()),
            'bias': float(np.median(depth)),
            'lateral median, cm': 100 * float(np.median(np.abs(across))),
            'lateral p90, cm': 100 * float(np.percentile(np.abs(across), 90)),
        }
    return rows


def honesty(errors: PositionErrors) -> dict[str, dict[str, Any]]:
    """5 m bin -> shares inside the standard deviations, NEES, and what placed the cones."""
    rows = {}
    for low, high in pairwise(range(0, 35, 5)):
        inside = (errors.range_m >= low) & (errors.range_m < high)
        known = inside & (errors.source > 0)
        ratio = np.abs(errors.depth_m[known]) / errors.sigma_m[known]
        wrong = np.abs(errors.depth_m[known]) > WRONG_M
        rows[f'{low}-{high} m'] = {
            'cones': int(inside.sum()),
            'published': float(known.sum() / inside.sum()),
            'by stereo': float((errors.source[inside] == STEREO).mean()),
            'by height': float((errors.source[inside] == HEIGHT).mean()),
            'by ground': float((errors.source[inside] == GROUND).mean()),
            'in 1 sigma': float((ratio < 1).mean()),
            'in 2 sigma': float((ratio < 2).mean()),
            'depth NEES': float((ratio**2).mean()),
            'NEES': float(errors.nees[known].mean()),
            'over 1 m': f'{100 * wrong.mean():.2f} %',
        }
    return rows


def pictures_of(pairs: Iterable[DrivePair], detector: ConeDetector) -> Iterable[Any]:
    """Each pair with what is found in its left eye."""
    for pair in pairs:
        yield pair, detector.detect([pair.frames[0]], Filters())[0][0]


def judge_ideal(
    pairs: Iterable[DrivePair], detector: ConeDetector, figures: Figures
) -> dict[str, float]:
    """All methods on drives whose calibration is right; returns milliseconds."""
    judged, clock = Judged(), Clock()
    settings, mount = mounted()
    locators: dict[str, Locator] = {}
    disagree, rectification_ms = 0, float('nan')
    for pair, found in pictures_of(pairs, detector):
        infos = pair.left.info, pair.right.info
        left, right = pair.frames
        if not locators:
            rig = Rig.of(*infos, TOPICS, settings, mount)
            bare = Rig.of(*infos, TOPICS, settings, None)
            names = detector.card.class_names
            assert rig.right
            eyes = {'left': TimedCamera.eye(rig.left), 'right': TimedCamera.eye(rig.right)}
            timed = replace(rig, **eyes)
            locators = {ALL: Locator(timed, names), ALONE: Locator(rig, names)}
            locators[HIGH] = Locator(bare, names)
            rectification_ms = _rectify_ms(rig, left.bgr)
            Clock().locate(Locator(timed, names), found, pair)  # warm
            clock = Clock()
        positions = clock.locate(locators[ALL], found, pair)
        disagree += positions.counts['disagree']
        judged.add(ALL, pair, found, positions)
        judged.add(ALONE, pair, found, locators[ALONE].locate(found, left))
        judged.add(HIGH, pair, found, mount.to_base(locators[HIGH].locate(found, left)))
        in_right = detector.detect([right], Filters())[0][0]
        judged.add(CENTRES, pair, found, by_centres(rig, mount, pair, found, in_right))
    for method in (ALL, ALONE, HIGH, CENTRES):
        for row, values in table_rows(judged.errors(method)).items():
            figures.add(method, row, values)
    for row, values in honesty(judged.errors(ALL)).items():
        figures.add('covariance, two eyes', row, values)
    for row, deviation in PUBLISHED.items():
        figures.add('published, real cones', row, {'std': deviation})
    return {
        **clock.line(),
        'a whole 720p picture rectified': rectification_ms,
        'disagree': disagree,
    }


def _rectify_ms(rig: Rig, picture: Any) -> float:
    """Milliseconds to rectify a whole picture, the median of 20."""
    took = []
    for _ in range(20):
        started = time.perf_counter()
        rig.left.rectify_patch(picture, 0, 0, rig.left.width_px, rig.left.height_px)
        took.append((time.perf_counter() - started) * 1e3)
    return float(np.median(took))


def judge_yaw(
    pairs: Iterable[DrivePair], detector: ConeDetector, figures: Figures, settled: int
) -> str:
    """Drives whose right eye is turned, judged after `settled` pictures; what the watch knows."""
    judged = Judged()
    settings, mount = mounted()
    locators: dict[str, Locator] = {}
    for number, (pair, found) in enumerate(pictures_of(pairs, detector)):
        if not locators:
            rig = Rig.of(pair.left.info, pair.right.info, TOPICS, settings, mount)
            names = detector.card.class_names
            locators = {OFF: Locator(rig, names, 0.0), MENDED: Locator(rig, names)}
        for method, locator in locators.items():
            positions = locator.locate(found, *pair.frames)
            if number >= settled:
                judged.add(method, pair, found, positions)
    for method in (OFF, MENDED):
        for row, values in table_rows(judged.errors(method)).items():
            figures.add(method, row, values)
    return locators[MENDED].notes['yaw offset (px)']


def watched_drive(detector: ConeDetector, seed: int, yaw_deg: float) -> list[tuple[float, ...]]:
    """Sightings, error of the offset and its standard deviation in px, after each pair of a lap."""
    settings = SimulateSettings(rig=RigSettings(right_yaw_deg=yaw_deg))
    frames = iter(drive_frames(settings, seed, LAP_S, LAP_HZ, stereo=True))
    horizon, told = Horizon(), []
    locator: Locator | None = None
    for left, right in zip(frames, frames, strict=True):
        if locator is None:
            rig = Rig.of(left.info, right.info, TOPICS, DetectorSettings(), None)
            locator = Locator(rig, detector.card.class_names)
        picture = Frame(left.image)
        found = detector.detect([picture], Filters(), [horizon])[0][0]
        locator.locate(found, picture, Frame(right.image))
        watch = locator.watch
        true_px = -rig.left.fx_px * float(np.radians(yaw_deg))
        told.append((watch.count, watch.offset_px - true_px, watch.sigma_px))
    return told


def judge_watch(detector: ConeDetector, seeds: Sequence[int], yaw_deg: float) -> dict[str, Any]:
    """Print how far off the offset is after so many sightings; each third drive has no yaw."""
    drives = {}
    for seed, sign in zip(seeds, cycle((-1, 1, 0)), strict=False):
        drives[seed] = watched_drive(detector, seed, sign * yaw_deg)
        print(f'{seed}, yaw {sign * yaw_deg:+g}: {drives[seed][-1][1]:+.3f} px off')
    rows = []
    for least, after in pairwise((*SIGHTINGS, np.inf)):
        first = [
            next((each[1:] for each in told if least <= each[0] < after), None)
            for told in drives.values()
        ]
        if known := [each for each in first if each]:
            off, sigma = np.abs(known).T
            row = np.sqrt(np.mean(off**2)), off.max(), np.mean(off < 0.1), np.median(sigma)
            rows.append([str(least), str(len(off)), *(f'{figure:.2f}' for figure in row)])
    head = ['sightings', 'drives', 'rms px', 'largest px', 'within 0.1 px', 'sigma px']
    print_table(head, rows, 'Offset of the calibration watch')
    return {'drives': drives, 'head': head, 'rows': rows}


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--bundle', type=Path, help='(the shipped model)')
    add('--precision', choices=get_args(Precision), help='(INT8, else FP32)')
    add('--seeds', type=int, nargs='+', help='of the drives (80 of them)')
    add('--pictures', type=int, default=12, help='of each, one in 2 s (12)')
    add('--yaw-deg', type=float, default=0.1, help='by which the right eye is turned (0.1)')
    add('--yaw-seeds', type=int, default=30, help='drives with it (30), of the same seeds')
    add('--watch', action='store_true', help='judge the calibration watch, and nothing else')
    add('--fit', action='store_true', help='print fitted constants, and judge nothing')
    add('--settled', type=int, default=60, help='pictures of these that only the watch sees (60)')
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    bundle = read_bundle(args.bundle)
    engine = open_engine(bundle, threads=1, precision=args.precision)
    detector = ConeDetector(bundle.card, engine)
    if args.watch:
        told = judge_watch(detector, args.seeds or list(WATCH_SEEDS), args.yaw_deg)
        detector.close()
        write_result(args.json, told)
        return 0
    seeds = args.seeds or list(FIT_SEEDS if args.fit else SEEDS)
    ideal = render_pairs(seeds, args.pictures, RigSettings())
    if args.fit:
        fit_constants(pictures_of(ideal, detector), bundle.card.class_names)
        detector.close()
        return 0
    figures = Figures()
    ms = judge_ideal(ideal, detector, figures)
    turned = RigSettings(right_yaw_deg=args.yaw_deg)
    again = seeds[: args.yaw_seeds]
    watch = judge_yaw(render_pairs(again, args.pictures, turned), detector, figures, args.settled)
    detector.close()
    figures.print()
    print(f'\n{args.yaw_deg:g} degree: {watch}\nms: {ms}')
    facts = {'machine': describe_host(), 'bundle': bundle.card.name, 'views': detector.views}
    told = {'definitions': DEFINITIONS, 'ms': ms, 'yaw': watch, **figures.to_json()}
    write_result(args.json, {**facts, **told})
    return 0


if __name__ == '__main__':
    sys.exit(main())
