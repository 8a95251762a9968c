"""Cones in metres as vision_msgs/Detection3DArray, written and read without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cone_perception.bags.reader import CONES, message_header
from cone_perception.classes import CLASS_NAMES, CONE_SIZES_M
from cone_perception.positions.stance import IN_CAR, Stance, pose_covariances
from cone_perception.types import Frame, Positions


def cones_message(
    store: Any,
    frame: Frame,
    ids: Sequence[str],
    class_ids: Sequence[int],
    positions: Positions,
    stance: Stance = IN_CAR,
    score: float = 1.0,
) -> Any:
    """Make the Detection3DArray of a picture's cones; those without a position are left out.

    frame: the picture, whose stamp it gets; the frame of the coordinates is that of the positions.
    ids, class_ids: of each cone, class_ids among CLASS_NAMES. The pose of the result is the foot,
    the box the whole upright cone; stance: how it stands in this frame.
    """
    types = store.types
    point, turn = types['geometry_msgs/msg/Point'], types['geometry_msgs/msg/Quaternion']
    upright = turn(*stance.orientation)
    header = message_header(store, replace(frame, frame_id=positions.frame_id))
    covariances = pose_covariances(positions.covariance_m2)
    detections = []
    for row in np.flatnonzero(positions.known).tolist():
        foot, size = positions.xyz_m[row], CONE_SIZES_M[class_ids[row]]
        middle = foot + np.array(stance.up) * size[2] / 2
        at, centre = (
            types['geometry_msgs/msg/Pose'](point(*place.tolist()), upright)
            for place in (foot, middle)
        )
        pose = types['geometry_msgs/msg/PoseWithCovariance'](at, covariances[row])
        guess = types['vision_msgs/msg/ObjectHypothesis'](CLASS_NAMES[class_ids[row]], score)
        result = types['vision_msgs/msg/ObjectHypothesisWithPose'](guess, pose)
        extent = types['geometry_msgs/msg/Vector3'](*size)
        box = types['vision_msgs/msg/BoundingBox3D'](centre, extent)
        one = types['vision_msgs/msg/Detection3D'](header, [result], box, ids[row])
        detections.append(one)
    return types[CONES](header, detections)


@dataclass(frozen=True, slots=True, eq=False)
class MessageCones:
    """The cones of a Detection3DArray: ids, likeliest class names and positions, row by row.

    The message does not say what measured a position: its source is the first that is known.
    """

    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    positions: Positions

    def of(self, ids: Sequence[str]) -> Positions:
        """(N) positions of the cones with these ids, in their order; not known where absent."""
        rows = {one: row for row, one in enumerate(self.ids)}
        chosen = [(place, rows[one]) for place, one in enumerate(ids) if one in rows]
        there, here = np.array(chosen, np.int64).reshape(-1, 2).T
        n, given = len(ids), self.positions
        xyz_m, covariance_m2 = np.full((n, 3), np.nan), np.full((n, 3, 3), np.nan)
        source = np.zeros(n, np.int64)
        xyz_m[there], covariance_m2[there] = given.xyz_m[here], given.covariance_m2[here]
        source[there] = given.source[here]
        return Positions(xyz_m, covariance_m2, source, given.frame_id)


def cones_of(message: Any) -> MessageCones:
    """What a Detection3DArray says, whichever library read it.

    Raises ValueError for an id that stands twice, and for a detection without a result.
    """
    ids = [one.id for one in message.detections]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise ValueError(f'the message has several cones with the id {", ".join(twice)}')
    names, feet, covariances = [], [], []
    for one in message.detections:
        if not one.results:
            raise ValueError(f'detection {one.id!r} of the message has no result')
        best = max(one.results, key=lambda result: result.hypothesis.score)
        at = best.pose.pose.position
        names.append(best.hypothesis.class_id)
        feet.append((at.x, at.y, at.z))
        covariances.append(np.asarray(best.pose.covariance, np.float64).reshape(6, 6)[:3, :3])
    n = len(ids)
    positions = Positions(
        np.array(feet, np.float64).reshape(n, 3),
        np.array(covariances, np.float64).reshape(n, 3, 3),
        np.ones(n, np.int64),
        message.header.frame_id,
    )
    return MessageCones(tuple(ids), tuple(names), positions)
