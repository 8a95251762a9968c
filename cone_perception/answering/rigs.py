"""What camera_info and the mounting make of the cameras: locators, bands, and what is missing."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cone_perception.errors import describe
from cone_perception.images import camera_info_topic
from cone_perception.positions.camera import CameraInfo, CameraModel, RawLens
from cone_perception.positions.locate import Locator
from cone_perception.positions.rig import Mount, Rig
from cone_perception.settings import DetectorSettings
from cone_perception.views import Horizon, mounted_row


def info_topics(settings: DetectorSettings, image_topics: Mapping[str, str]) -> dict[str, str]:
    """Camera -> topic of its camera_info. image_topics: camera -> that of its pictures."""
    named: Sequence[str] = settings.info_topics
    if settings.stereo and settings.side_by_side:  # one topic, but two calibrations
        named = named or [f'{camera}/camera_info' for camera in image_topics]
    named = named or [camera_info_topic(topic) for topic in image_topics.values()]
    return dict(zip(image_topics, named, strict=True))


STAMP_END = 12
"""Bytes of a serialised message up to the end of its stamp: the encapsulation's four, then two
numbers of four. What follows is the calibration, and the same in each message of a camera."""
MOST_CHANGES, CHANGES_S = 5, 10.0
"""So many changes of a calibration in so many seconds are taken; making a rig anew costs time, and
what its watch has learnt."""


class Rigs:
    """The rigs of some cameras, each made anew when a calibration or the mounting changes.

    image_topics, info_topics: of each camera, of a stereo rig the left eye first. horizons: of the
    same cameras; their bands are laid as the mounting says. Any thread may use it.

    locators: camera -> what places its cones; both eyes of a stereo rig share one. Cameras without
    a calibration that can be used have none. unmounted: why the mounting is not known.
    """

    def __init__(
        self,
        settings: DetectorSettings,
        image_topics: Mapping[str, str],
        info_topics: Mapping[str, str],
        class_names: Sequence[str],
        horizons: Mapping[str, Horizon],
    ) -> None:
        self.locators: dict[str, Locator] = {}
        self.unmounted = 'mount_height_m is 0: set it, or mount_from: tf'
        self._settings = settings
        self._topics = image_topics
        self._class_names = class_names
        self._horizons = horizons
        self._lock = threading.Lock()
        self._contents: dict[str, bytes] = {}
        self._infos: dict[str, CameraInfo] = {}
        self._frames: dict[str, str] = {}
        mount = None if settings.mount_from == 'tf' else Mount.of(settings)
        self._mounts = dict.fromkeys(image_topics, mount)
        self._mounted_by = 'settings' if mount else 'not known'
        self._changes = dict.fromkeys(image_topics, 0)
        self._changed_s: dict[str, deque[float]] = {
            camera: deque(maxlen=MOST_CHANGES) for camera in image_topics
        }
        self._refused_s = dict.fromkeys(image_topics, -math.inf)
        self._missing = {c: f'nothing came on {topic}' for c, topic in info_topics.items()}
        self._unlaid: dict[str, str] = {}

    def hear(self, camera: str, content: bytes, read: Callable[[], Any]) -> str:
        """Take a serialised CameraInfo, unless it tells the same as the last one of the camera.

        One that keeps changing is not taken for a while, which `warnings` tells. read: makes the
        message of it. Returns 'came' or 'changed', empty where it was not taken.
        """
        if self._contents.get(camera) == content[STAMP_END:]:
            return ''
        now_s, changed_s = time.monotonic(), self._changed_s[camera]
        if len(changed_s) == MOST_CHANGES and now_s < changed_s[0] + CHANGES_S:
            self._refused_s[camera] = now_s
            return ''
        changed_s.append(now_s)
        self._contents[camera] = content[STAMP_END:]
        return 'changed' if self.take(camera, read()) else 'came'

    def take(self, camera: str, message: Any) -> bool:
        """Take a calibration, a sensor_msgs/CameraInfo; tells whether it replaces another one.

        One that cannot be used takes the positions away: `warnings` has the reason.
        """
        numbers = (tuple(map(float, row)) for row in (message.d, message.k, message.r, message.p))
        size_px = int(message.width), int(message.height)
        with self._lock:
            known = camera in self._infos
            self._infos[camera] = CameraInfo(*size_px, message.distortion_model, *numbers)
            self._frames[camera] = message.header.frame_id
            self._changes[camera] += known
            self._make(self._eyes_of(camera))
        return known

    def mount(self, camera: str, mount: Mount) -> None:
        """Take where tf says that a camera stands; of a stereo rig, its left eye.

        tf tells of the camera as it is; `Rig.mount` is of its rectified pictures.
        """
        with self._lock:
            self._mounts[camera] = mount
            self._mounted_by = 'tf'
            self._make(self._eyes_of(camera))

    def unmounted_frames(self) -> dict[str, str]:
        """First eye of each rig whose mounting is not known -> frame_id of its camera_info.

        Empty where that names none, or where none came.
        """
        with self._lock:
            first = dict.fromkeys(self._eyes_of(camera)[0] for camera in self._topics)
            return {c: self._frames.get(c, '') for c in first if not self._mounts[c]}

    def warnings(self, camera: str) -> list[str]:
        """What an engineer must see of a camera's positions, the worst first."""
        with self._lock:
            return list(self._warnings(camera))

    def notes(self, camera: str) -> dict[str, str]:
        """What is known of a camera's rig, for the diagnostics."""
        notes = {'calibration changed': str(self._changes[camera])}
        locator = self.locators.get(camera)
        if locator is None:
            return {'positions in': 'none', **notes}
        rig = locator.rig
        notes['positions in'] = rig.mount.frame_id if rig.mount else rig.optical_frame
        notes['mounted by'] = self._mounted_by if rig.mount else 'not known'
        notes['baseline (m)'] = f'{rig.baseline_m:.4f}' if rig.right else 'none'
        return {**notes, **locator.notes}

    def _eyes_of(self, camera: str) -> tuple[str, ...]:
        return tuple(self._topics) if self._settings.stereo else (camera,)

    def _make(self, eyes: tuple[str, ...]) -> None:
        """Make the locator of a rig, if the calibration of its left eye has come."""
        left, right = self._infos.get(eyes[0]), self._infos.get(eyes[-1]) if eyes[1:] else None
        if left is None:
            return
        topics = [self._topics[eye] for eye in eyes]
        about = (topics, self._settings, self._mounts[eyes[0]], self._frames[eyes[0]])
        try:
            rig = Rig.of(left, right, *about)
            if rig.mount and rig.left.raw and self._mounted_by == 'tf':
                turn = RawLens(rig.left.raw).turn
                mount = replace(rig.mount, rotation=rig.mount.rotation @ turn.T)
                rig = replace(rig, mount=mount)
            locator = Locator(rig, self._class_names, self._settings.yaw_correction_px)
        except Exception as error:  # OpenCV has words of its own for what a lens cannot do
            for eye in eyes:
                self._forget(eye, describe(error))
            return
        for number, (eye, model) in enumerate(zip(eyes, (rig.left, rig.right), strict=False)):
            if model is None:
                self._forget(eye, rig.why_mono)
                continue
            self.locators[eye] = locator
            self._missing.pop(eye, None)
            self._lay(eye, model, rig.mount_of(number))

    def _forget(self, camera: str, reason: str) -> None:
        """Place this camera's cones no more. reason: empty where nothing came yet."""
        self.locators.pop(camera, None)
        self._horizons[camera].fixed = None
        self._unlaid.pop(camera, None)
        if reason:
            self._missing[camera] = reason

    def _lay(self, camera: str, model: CameraModel, mount: Mount | None) -> None:
        """Lay a camera's band where far cones stand by its mounting."""
        self._horizons[camera].fixed = None
        self._unlaid.pop(camera, None)
        if mount is None:
            return
        pitch_deg = -math.degrees(math.asin(np.clip(mount.rotation[2, 2], -1, 1)))
        row_px = mounted_row(model.fy_px, model.cy_px, mount.translation_m[2], pitch_deg)
        if 0 <= row_px <= model.height_px:
            self._horizons[camera].fixed = float(row_px / model.height_px)
            return
        self._unlaid[camera] = (
            f'with a pitch of {pitch_deg:.1f} degrees far cones would stand at row {row_px:.0f} of '
            f'{model.height_px}'
        )

    def _warnings(self, camera: str) -> Iterator[str]:
        if reason := self._missing.get(camera):
            yield f'no positions: {reason}'
        if time.monotonic() < self._refused_s[camera] + CHANGES_S:
            yield 'camera_info keeps changing: two publishers? It is taken now and then only'
        locator = self.locators.get(camera)
        if locator and camera == self._eyes_of(camera)[0]:
            yield from locator.warnings
            if locator.rig.mount is None:
                yield (
                    f'cones are placed in {locator.rig.optical_frame or "the frame of the camera"}'
                    f', not in {self._settings.base_frame}: {self.unmounted}'
                )
        if reason := self._unlaid.get(camera):
            yield f'the band follows the boxes, not the mounting: {reason}'
