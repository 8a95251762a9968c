"""A drive as a rosbag2: pictures, camera_info and ground truth with equal stamps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from tqdm import tqdm

from cone_perception.bags import reader
from cone_perception.bags.cones3d import cones_message
from cone_perception.classes import CLASS_NAMES
from cone_perception.errors import OutputError, SettingsError
from cone_perception.positions.camera import CameraInfo
from cone_perception.positions.stance import IN_CAMERA, IN_CAR
from cone_perception.types import Frame, Positions
from training.simulate.camera import PinholeCamera, load_camera, make_lens
from training.simulate.photo import apply_photo, make_photo
from training.simulate.renderer import Label, render
from training.simulate.rig.eyes import EYES, calibration, make_eyes
from training.simulate.rig.shutter import Shutter
from training.simulate.scene import SimulateSettings, make_scene
from training.simulate.scenery.ego import make_ego
from training.simulate.scenery.library import make_library
from training.simulate.scenery.sketch import Array, Bytes
from training.simulate.track import Track

FRAME_IDS = {
    'left': 'zed_left_camera_optical_frame',
    'right': 'zed_right_camera_optical_frame',
    'base': 'base_footprint',
}
START_NS = 1_760_000_000_000_000_000
"""Stamp of the first picture of seed 0: a plausible time, the same in every run."""


@dataclass(frozen=True, slots=True)
class DriveFrame:
    """One picture of one eye. image: (H, W, 3) BGR uint8. quality: of JPEG, that it is meant for.

    stamp_ns: what its header says. taken_ns: when it was taken, another time only where the rig's
    settings say so. camera: that took it. eyes: the cameras of both eyes at that moment, also
    without stereo. info: the camera_info of this eye, which knows of no error of the rig.
    """

    eye: str
    stamp_ns: int
    taken_ns: int
    image: Bytes
    labels: list[Label]
    camera: PinholeCamera
    quality: int
    eyes: Mapping[str, PinholeCamera]
    info: CameraInfo

    def feet_m(self, frame: str) -> Array:
        """(N, 3) where the labelled cones stand: label.foot_m in another frame, metres.

        frame: `left` or `right`, the optical frame of that eye; or `base`, the frame of the car:
        its origin lies on the ground below the left eye, x points to where that eye looks, y left,
        z up. The car's pitch, roll and bounce are no part of it: the mount of zed2i.yaml, at
        x = y = 0, is right on average.
        """
        feet = np.array([label.foot_m for label in self.labels], np.float64).reshape(-1, 3)
        if frame != 'base':
            return self.eyes[frame].to_optical(feet)
        return self.eyes['left'].to_level(feet)


@dataclass(frozen=True, slots=True)
class DrivePath:
    """How a car drives a closed track. camera: the left eye, not on its way.

    at: index of the centre line where it starts. shake: (6,) phases of what moves the camera.
    """

    camera: PinholeCamera
    track: Track
    speed_m_s: float
    at: float
    shake: Array

    def eye_at(self, t: float) -> PinholeCamera:
        """The left eye as it is calibrated, t seconds after the start."""
        camera, shake = self.camera, self.shake
        place = self.at + self.speed_m_s * t / 0.25
        x, y, heading = _on_track(self.track, place)
        ahead = _on_track(self.track, place + 12)[2]
        yaw = heading + 0.35 * math.atan2(math.sin(ahead - heading), math.cos(ahead - heading))
        aside = 0.3 * math.sin(0.5 * t + shake[0])
        x, y = x - aside * math.sin(heading), y + aside * math.cos(heading)
        yaw += 0.01 * math.sin(1.9 * t + shake[1])
        pitch = camera.pitch_rad + 0.006 * math.sin(9 * t + shake[2]) + 0.003 * math.sin(31 * t)
        roll = 0.008 * math.sin(4 * t + shake[3]) + 0.002 * math.sin(37 * t + shake[4])
        up = camera.position_m[2] + 0.006 * math.sin(11 * t + shake[5])
        turns: Any = {'yaw_rad': yaw, 'pitch_rad': pitch, 'roll_rad': roll}
        return replace(camera, position_m=(x, y, up), **turns)


def drive_frames(
    settings: SimulateSettings, seed: int, seconds: float, hz: float, stereo: bool = False
) -> Iterator[DriveFrame]:
    """Pictures of a car that drives one lap's part by part; left before right at each stamp.

    Track, textures, light, cones and the camera's behaviour follow from the seed; datasets use
    other streams of it, so that a drive shares nothing with a dataset of the same seed.
    Raises SettingsError for settings of the right eye without stereo.
    """
    rig = settings.rig
    if not stereo:
        rig.refuse_others(('focal_error', 'readout_ms'), 'the drive has one eye')
    rng = np.random.default_rng([seed, 17, 2])
    library = make_library(seed * 3 + 1_000_003)
    camera = load_camera().resized(settings.width_px)
    # A race has cones of one make, and fewer of them lie than a data set shows.
    race = replace(settings, makes=0.0, fallen=settings.fallen * 7 / 12)
    scene = make_scene(rng, race, library, 'circuit')
    ego = make_ego(rng, camera.width_px, camera.height_px)
    photo = make_photo(rng, 0.35 * settings.photo, settings.width_px)
    level = min(max(photo.level, 105.0), 160.0) if photo.level else 0.0
    photo = replace(photo, level=level, motion_px=0.0, glare=(0.0, 0.0, 0.0, 0.0))
    darker = replace(photo, gains=tuple(gain * rig.right_exposure for gain in photo.gains))
    photos = {'left': photo, 'right': darker}
    track = scene.track
    things = []
    for thing in scene.things:
        # One that turns to face the car must never swing over the track.
        distance = np.hypot(*(track.centre_m - np.array(thing.position_m)).T).min()
        if distance > thing.width_m / 2 + track.width_m / 2:
            things.append(thing)
    scene = replace(scene, things=tuple(things))
    speed = rng.uniform(6.0, 9.0)
    at = rng.uniform(0, len(track.centre_m))
    path = DrivePath(camera, track, speed, at, rng.uniform(0, 2 * math.pi, 6))
    start_ns = START_NS + seed * 3_600_000_000_000
    open_eyes = EYES if stereo else EYES[:1]
    lenses = {
        eye: make_lens(seen) for eye, seen in make_eyes(camera, rig).items() if eye in open_eyes
    }
    late_s = {'left': 0.0, 'right': rig.right_late_ms / 1e3}
    behind_ns = {'left': 0, 'right': round(rig.right_stamp_ms * 1e6)}
    for index in range(round(seconds * hz)):
        for eye in open_eyes:
            t = index / hz + late_s[eye]
            eyes = make_eyes(path.eye_at(t), rig)
            shutter = None
            if rig.readout_ms:
                half_s = rig.readout_ms / 2e3
                first, last = (make_eyes(path.eye_at(t + s), rig)[eye] for s in (-half_s, half_s))
                shutter = Shutter.of(first, eyes[eye], last)
            result = render(scene, eyes[eye], library, settings, ego, lenses[eye], shutter)
            noise = np.random.default_rng([seed, 17, 3, index, eye == 'right'])
            image = apply_photo(result.image, photos[eye], library.sensor, noise)
            pair_ns = start_ns + round(index * 1e9 / hz)
            times_ns = (pair_ns + behind_ns[eye], pair_ns + round(late_s[eye] * 1e9))
            yield DriveFrame(
                *(eye, *times_ns, image, result.labels),
                *(eyes[eye], photo.quality, eyes, calibration(camera, eye)),
            )


def _on_track(track: Track, place: float) -> tuple[float, float, float]:
    """Position and direction at a fractional index of a closed centre line."""
    centre, heading = track.centre_m, track.heading_rad
    low = math.floor(place)
    part = place - low
    first, second = low % len(centre), (low + 1) % len(centre)
    x, y = (1 - part) * centre[first] + part * centre[second]
    turn = heading[second] - heading[first]
    turn = math.atan2(math.sin(turn), math.cos(turn))
    return float(x), float(y), float(heading[first] + part * turn)


def write_drive(
    out: Path,
    settings: SimulateSettings,
    seed: int,
    seconds: float,
    hz: float,
    compressed: bool = False,
    stereo: bool = False,
) -> int:
    """Render a drive into a new bag (mcap) at `out`; returns the number of pictures.

    A message is recorded when its picture was taken, whatever its stamp says.

    Topics: /camera/image (or /camera/image/compressed), /camera/camera_info and
    /camera/ground_truth; with stereo /camera/left/... and /camera/right/... instead. Where the
    cones stand: /camera/ground_truth_3d in the frame of the car, and per eye in its optical frame,
    /camera/left/ground_truth_3d and /camera/right/ground_truth_3d, or
    /camera/ground_truth_3d_optical. The id of a cone is its index in the scene, everywhere.
    Raises SettingsError for a drive without a picture, OutputError for an `out` that exists.
    """
    if not (seconds > 0 and 0 < hz <= 1000 and round(seconds * hz) > 0):
        raise SettingsError(
            f'{seconds} s at {hz} Hz is no drive: at least one picture, at most 1000 Hz'
        )
    if out.exists():
        raise OutputError(f'{out} exists: choose another name or delete it')
    store = reader.bag_types()
    total = round(seconds * hz) * (1 + stereo)
    image = ('image/compressed', reader.COMPRESSED_IMAGE) if compressed else ('image', reader.IMAGE)
    optical = ('ground_truth_3d' if stereo else 'ground_truth_3d_optical', reader.CONES)
    topics = (image, ('camera_info', reader.CAMERA_INFO), ('ground_truth', reader.DETECTIONS))
    prefixes = {eye: f'/camera/{eye}' for eye in EYES} if stereo else {'left': '/camera'}
    with Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        add = partial(writer.add_connection, typestore=store)
        connections = {
            eye: [add(f'{prefix}/{name}', kind) for name, kind in (*topics, optical)]
            for eye, prefix in prefixes.items()
        }
        in_car = add('/camera/ground_truth_3d', reader.CONES)

        def write(connection: Any, time_ns: int, message: Any) -> None:
            data = store.serialize_cdr(message, message.__msgtype__)
            writer.write(connection, time_ns, data)

        pair: list[DriveFrame] = []
        drive = drive_frames(settings, seed, seconds, hz, stereo)
        for taken in tqdm(drive, total=total, unit='picture', desc='drive'):
            frame_id = FRAME_IDS[taken.eye]
            frame = Frame(taken.image, taken.stamp_ns, frame_id, 'the simulated camera')
            cones = [(CLASS_NAMES[label.class_id], label.xyxy_px) for label in taken.labels]
            ids = [str(label.cone) for label in taken.labels]
            messages = (
                reader.image_message(store, frame, compressed, max(taken.quality, 85)),
                reader.camera_info_message(store, frame, taken.info),
                reader.detections_message(store, frame, cones, ids=ids),
                truth_message(store, taken, taken.eye),
            )
            for connection, message in zip(connections[taken.eye], messages, strict=True):
                write(connection, taken.taken_ns, message)
            pair.append(taken)
            if len(pair) == len(prefixes):
                # The left eye's last, so that its view of a cone counts.
                seen = {label.cone: label for eye in reversed(pair) for label in eye.labels}
                both = replace(pair[0], labels=[seen[cone] for cone in sorted(seen)])
                write(in_car, taken.taken_ns, truth_message(store, both, 'base'))
                pair = []
    return total


def truth_message(store: Any, taken: DriveFrame, frame: str) -> Any:
    """Make the Detection3DArray of the cones of a picture; frame: as for `feet_m`."""
    feet = taken.feet_m(frame)
    n = len(feet)
    exact = Positions(feet, np.zeros((n, 3, 3)), np.ones(n, np.int64), FRAME_IDS[frame])
    stance = IN_CAR if frame == 'base' else IN_CAMERA
    ids = [str(label.cone) for label in taken.labels]
    class_ids = [label.class_id for label in taken.labels]
    return cones_message(store, Frame(taken.image, taken.stamp_ns), ids, class_ids, exact, stance)
