"""Cones and their uncertainty as visualization_msgs/MarkerArray, for RViz and Foxglove."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from cone_perception.pictures.draw import class_colour
from cone_perception.ros.cones import PlacedCones, sizes_m

LIFETIME_S = 1
"""Markers of the last picture vanish after this, where no other follows."""

SIGMAS = 2.0
"""Radius of the disc under a cone, in standard deviations: it covers 86 % of the places where the
cone may stand."""

DISC_M = 0.01
"""Height of the disc."""


def cone_markers(placed: PlacedCones, class_names: Sequence[str]) -> MarkerArray:
    """A cylinder for each cone, and below it a disc for its uncertainty.

    Its first marker deletes all that were sent before on the topic.
    """
    markers = [Marker(header=placed.header, action=Marker.DELETEALL)]
    sizes = sizes_m(class_names)
    ground = np.ix_(range(len(placed)), placed.stance.ground, placed.stance.ground)
    variances, axes = np.linalg.eigh(placed.covariance_m2[ground])
    axes_m = 2 * SIGMAS * np.sqrt(np.maximum(variances, 0.0))
    turns_rad = np.arctan2(axes[:, 1, 0], axes[:, 0, 0])  # of the axis that comes first
    up = np.array(placed.stance.up)
    for row, foot, classes, (first_m, second_m), turn_rad in zip(
        placed.rows, placed.xyz_m, placed.classes, axes_m.tolist(), turns_rad.tolist(), strict=True
    ):
        likeliest = classes[0][0]
        name, size = class_names[likeliest], sizes[likeliest]
        disc = (first_m, second_m, DISC_M)
        for kind, at, scale, turned_rad, opacity in (
            ('cone', foot + size[2] / 2 * up, size, 0.0, 1.0),
            ('uncertainty', foot, disc, turn_rad, 0.4),
        ):
            blue, green, red = (part / 255 for part in class_colour(name))
            x, y, z = at.tolist()
            pose = Pose(position=Point(x=x, y=y, z=z), orientation=_turned(placed, turned_rad))
            markers.append(
                Marker(
                    header=placed.header,
                    ns=kind,
                    id=row,
                    type=Marker.CYLINDER,
                    action=Marker.ADD,
                    pose=pose,
                    scale=Vector3(x=scale[0], y=scale[1], z=scale[2]),
                    color=ColorRGBA(r=red, g=green, b=blue, a=opacity),
                    lifetime=Duration(sec=LIFETIME_S),
                )
            )
    return MarkerArray(markers=markers)


def _turned(placed: PlacedCones, angle_rad: float) -> Quaternion:
    """Orientation of what stands upright, and is turned around its own axis."""
    x, y, z, w = placed.stance.orientation
    sine, cosine = np.sin(angle_rad / 2), np.cos(angle_rad / 2)
    return Quaternion(
        x=float(x * cosine + y * sine),
        y=float(y * cosine - x * sine),
        z=float(z * cosine + w * sine),
        w=float(w * cosine - z * sine),
    )
