"""Publishers of a configured node: boxes, cones, debug images, the outcome of every frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    Detection3DArray,
    ObjectHypothesisWithPose,
)
from visualization_msgs.msg import MarkerArray

from cone_perception.answering.answer import Answer
from cone_perception.errors import describe
from cone_perception.images import bgr_of
from cone_perception.pictures.draw import draw_cones
from cone_perception.pipeline import ConeDetector
from cone_perception.positions.stance import IN_CAR
from cone_perception.ros.cones import ConesMessage, PlacedCones
from cone_perception.ros.diagnostics import timing_status
from cone_perception.ros.markers import cone_markers
from cone_perception.ros.team_message import ConeMapping, TeamMessage
from cone_perception.settings import DetectorSettings
from cone_perception.views import band_edges

DETECTIONS_DEPTH = 5
"""An answer is a few kB, and a planner must not miss one: reliable, so that both kinds of
subscriptions hear it. Who is later than this wants the newest instead."""


class AnswerPublishers:
    """The publishers of all cameras. Any thread may use them.

    The objects of a camera's detections are kept and filled anew: making seven for each cone took
    longer than all else that the node does after the network (docs/results/replay.md).
    """

    def __init__(self, node: Node, settings: DetectorSettings, detector: ConeDetector) -> None:
        """Announce the topics. Raises SettingsError where cone_message is not possible."""
        cameras = settings.cameras
        self._node = node
        self._detector = detector
        self._base_frame = settings.base_frame
        self._class_names = detector.card.class_names
        self._publishers: list[Publisher[Any]] = []
        self._kept: dict[str, list[Detection2D]] = {name: [] for name in cameras}
        self._lock = threading.Lock()  # of what is kept
        self._detections = {
            name: self._create(Detection2DArray, f'{name}/detections', DETECTIONS_DEPTH)
            for name in cameras
        }
        self._rigs = self._create_rigs(settings)
        self._debug = {name: self._create(Image, f'{name}/debug_image', 1) for name in cameras}
        # Drops come in bursts while the network is busy, and a record that a late listener lost
        # would look like a frame that never came.
        self._timing = self._create(DiagnosticArray, '~/timing', 1000)

    def publish(self, answer: Answer) -> Answer:
        """Send the boxes, then the cones in metres, without which the boxes are worth as much.

        Returns the answer with the moment at which all was sent, and what could not be.
        """
        found, header = answer.found, answer.arrival.message.header
        assert found is not None
        with self._lock:
            kept = self._kept[answer.camera]
            while len(kept) < len(found):
                kept.append(Detection2D(results=[ObjectHypothesisWithPose()], id=str(len(kept))))
            filled = kept[: len(found)]
            columns = (found.xyxy_px.tolist(), found.score.tolist(), found.class_id.tolist())
            for detection, corners, score, class_id in zip(filled, *columns, strict=True):
                left, top, right, bottom = corners
                detection.header = header
                hypothesis = detection.results[0].hypothesis
                hypothesis.class_id = self._class_names[class_id]
                hypothesis.score = score
                box = detection.bbox
                box.center.position.x = (left + right) / 2
                box.center.position.y = (top + bottom) / 2
                box.size_x = right - left
                box.size_y = bottom - top
            message = Detection2DArray(header=header, detections=filled)
            self._detections[answer.camera].publish(message)
            try:
                placed = self._placed(answer)
                unsent = '' if placed is None else self._rigs[answer.camera].publish(placed)
            except Exception as error:
                unsent = f'cones in metres: {describe(error)}'
        moments_ns = {**answer.moments_ns, 'published_ns': time.monotonic_ns()}
        return replace(answer, moments_ns=moments_ns, unsent=unsent)

    def publish_markers(self, answer: Answer) -> None:
        """Send the cones as markers, if somebody listens."""
        rig = self._rigs[answer.camera]
        if rig.markers.get_subscription_count():
            placed = self._placed(answer)
            if placed is not None:
                rig.markers.publish(cone_markers(placed, self._class_names))

    def publish_debug(self, answer: Answer) -> None:
        """Send the picture with its cones drawn in, if somebody listens."""
        publisher = self._debug[answer.camera]
        if not publisher.get_subscription_count():
            return
        picture, found = answer.picture, answer.found
        assert picture is not None
        assert found is not None
        views = self._detector.views_of(picture.height_px, picture.width_px, found.band_px)
        bands_px = band_edges(views)
        drawn = draw_cones(bgr_of(picture), found, self._class_names, bands_px=bands_px)
        message = Image(header=answer.arrival.message.header, encoding='bgr8')
        message.height, message.width = drawn.shape[:2]
        message.step = message.width * 3
        message.data.frombytes(drawn.tobytes())
        publisher.publish(message)

    def publish_timing(self, answer: Answer) -> None:
        """Send what became of a frame, if somebody listens."""
        if self._timing.get_subscription_count():
            header = Header(stamp=answer.arrival.message.header.stamp)
            self._timing.publish(DiagnosticArray(header=header, status=[timing_status(answer)]))

    def wait_for_timing(self, timeout_s: float) -> None:
        """Let who listens to ~/timing acknowledge what was sent."""
        self._timing.wait_for_all_acked(Duration(seconds=timeout_s))

    def close(self) -> None:
        """Take all topics back."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def _placed(self, answer: Answer) -> PlacedCones | None:
        return PlacedCones.of(answer, self._detector.card, self._base_frame)

    def _create_rigs(self, settings: DetectorSettings) -> Mapping[str, RigPublishers]:
        """Camera -> what its rig publishes; the two eyes of a stereo rig share it."""
        rigs = settings.cameras[:1] if settings.stereo else settings.cameras
        made = {}
        for camera in rigs:
            place = '~' if len(rigs) == 1 else f'~/{camera}'
            team = None
            if settings.cone_message:
                mapping = ConeMapping.read(settings.cone_message)
                team = TeamMessage(mapping, self._class_names, f'{place}/team_cones')
            made[camera] = RigPublishers(self._create, place, self._class_names, team)
        return {camera: made.get(camera, made[rigs[0]]) for camera in settings.cameras}

    def _create(self, kind: type[Any], topic: str, depth: int) -> Publisher[Any]:
        self._publishers.append(self._node.create_publisher(kind, topic, QoSProfile(depth=depth)))
        return self._publishers[-1]


class RigPublishers:
    """What is published in metres of one rig: a camera, or the two eyes of a stereo rig.

    create: makes a publisher of a type, topic and depth. place: of its topics.
    """

    def __init__(
        self,
        create: Callable[[type[Any], str, int], Publisher[Any]],
        place: str,
        class_names: Sequence[str],
        team: TeamMessage | None,
    ) -> None:
        self._message = ConesMessage(class_names)
        self._cones = create(Detection3DArray, f'{place}/cones', DETECTIONS_DEPTH)
        self._team = team
        if team is not None:
            self._team_cones = create(team.kind, team.topic, DETECTIONS_DEPTH)
        self.markers = create(MarkerArray, f'{place}/markers', 1)

    def publish(self, placed: PlacedCones) -> str:
        """Send the cones; to the team's topic only in the car's frame, which it need not name.

        Returns what could not be sent, and why: one message does not cost the other.
        """
        sends: list[tuple[Publisher[Any], Callable[[PlacedCones], Any]]]
        sends = [(self._cones, self._message.fill)]
        if self._team is not None and placed.stance is IN_CAR:
            sends.append((self._team_cones, self._team.fill))
        unsent = []
        for publisher, fill in sends:
            try:
                publisher.publish(fill(placed))
            except Exception as error:  # whatever a mapping or the middleware stumbles over
                unsent.append(f'{publisher.topic_name}: {describe(error)}')
        return '; '.join(unsent)
