"""Cones in metres as vision_msgs/Detection3DArray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import Pose, PoseWithCovariance, Quaternion, Vector3
from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox3D,
    Detection3D,
    Detection3DArray,
    ObjectHypothesisWithPose,
)

from cone_perception.answering.answer import Answer
from cone_perception.classes import CONE_SIZES_M, project_classes
from cone_perception.model_card import ModelCard
from cone_perception.positions.stance import IN_CAMERA, IN_CAR, Stance, pose_covariances
from cone_perception.types import Float32, Float64

LEAST_PROBABILITY = 0.05
"""A class that is less likely is no hypothesis of a cone."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedCones:
    """Cones of one picture that have a position, N of them: row i of everything is one cone.

    header: stamp of the picture, frame of the coordinates. rows: (N,) of the picture's detections.
    xyz_m: (N, 3), middle of the foot. covariance_m2: (N, 3, 3). classes: of each cone, likeliest
    first, index into the model's class names and probability.
    """

    header: Header
    stance: Stance
    rows: list[int]
    xyz_m: Float64
    covariance_m2: Float64
    classes: list[list[tuple[int, float]]]

    @classmethod
    def of(cls, answer: Answer, card: ModelCard, base_frame: str) -> PlacedCones | None:
        """Of a picture; None where nothing says where its cones stand.

        None too where cones were found and none of them has a position: without a cone it would
        say that none was there.
        """
        found, positions = answer.found, answer.positions
        if found is None or positions is None:
            return None
        known = positions.known
        if len(found) and not known.any():
            return None
        stamp, frame_id = answer.arrival.message.header.stamp, positions.frame_id
        return cls(
            Header(stamp=stamp, frame_id=frame_id),
            IN_CAR if frame_id == base_frame else IN_CAMERA,
            np.flatnonzero(known).tolist(),
            positions.xyz_m[known],
            positions.covariance_m2[known],
            likely_classes(card.probabilities(found[known])),
        )

    def __len__(self) -> int:
        return len(self.rows)


def likely_classes(probabilities: Float32) -> list[list[tuple[int, float]]]:
    """Class and probability of each cone's hypotheses, likeliest first; the first always."""
    order = np.argsort(-probabilities, axis=1, kind='stable')
    counts = np.maximum((probabilities > LEAST_PROBABILITY).sum(axis=1), 1)
    ranked = np.take_along_axis(probabilities, order, axis=1)
    return [
        list(zip(classes[:count], values[:count], strict=True))
        for classes, values, count in zip(order.tolist(), ranked.tolist(), counts, strict=True)
    ]


def sizes_m(class_names: Sequence[str]) -> list[tuple[float, float, float]]:
    """Width, depth and height of a cone of each class; of a small one where the name is unknown."""
    return [CONE_SIZES_M[each] for each in project_classes(class_names)]


class ConesMessage:
    """Fills a Detection3DArray; its objects are kept and filled anew, see AnswerPublishers."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._sizes_m = sizes_m(class_names)
        self._boxes = [Vector3(x=w, y=d, z=h) for w, d, h in self._sizes_m]
        self._kept: list[tuple[Detection3D, list[ObjectHypothesisWithPose]]] = []

    def fill(self, placed: PlacedCones) -> Detection3DArray:
        """The message of a picture, good until the next one is filled."""
        while len(self._kept) < len(placed):
            pose = PoseWithCovariance()  # one, for all hypotheses of a cone
            hypotheses = [ObjectHypothesisWithPose(pose=pose) for _ in self._class_names]
            self._kept.append((Detection3D(bbox=BoundingBox3D(center=Pose())), hypotheses))
        kept = self._kept[: len(placed)]
        x, y, z, w = placed.stance.orientation
        upright, up = Quaternion(x=x, y=y, z=z, w=w), placed.stance.up
        covariances = pose_covariances(placed.covariance_m2)
        columns = (placed.rows, placed.xyz_m.tolist(), covariances, placed.classes)
        for (detection, hypotheses), row, foot, covariance, classes in zip(
            kept, *columns, strict=True
        ):
            detection.header = placed.header
            detection.id = str(row)
            detection.results = hypotheses[: len(classes)]
            for result, (class_id, probability) in zip(detection.results, classes, strict=True):
                result.hypothesis.class_id = self._class_names[class_id]
                result.hypothesis.score = probability
            pose = detection.results[0].pose
            pose.covariance = covariance
            pose.pose.orientation = upright
            place = pose.pose.position
            place.x, place.y, place.z = foot
            likeliest = classes[0][0]
            half_m = self._sizes_m[likeliest][2] / 2
            detection.bbox.size = self._boxes[likeliest]
            center = detection.bbox.center
            center.orientation = upright
            middle = center.position
            middle.x, middle.y, middle.z = (
                at + half_m * along for at, along in zip(foot, up, strict=True)
            )
        return Detection3DArray(header=placed.header, detections=[d for d, _ in kept])
