"""What a rig does other than its camera_info says, as settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

from pydantic import Field

from cone_perception.errors import SettingsError
from training.recipe.kinds import Number, recipe_part

Angle = Annotated[Number, Field(ge=-5, le=5)]
Part = Annotated[Number, Field(ge=-0.2, le=0.2)]
Milliseconds = Annotated[Number, Field(ge=-500, le=500)]


@recipe_part
class RigSettings:
    """Errors of the rig in a drive; camera_info knows of none.

    right_yaw_deg, right_pitch_deg, right_roll_deg: the right eye is turned about its own axes:
    to the left, down, clockwise.
    focal_error: the focal lengths of both eyes are longer by this share. right_focal_error: that of
    the right eye is longer by this share, too.
    baseline_error_m: the eyes are farther apart by this much.
    right_exposure: the right eye gathers this many times the light that it should.
    right_late_ms: the right eye takes its picture this much later. right_stamp_ms: its stamp lies
    this much behind that of the left eye, whenever the picture was taken.
    readout_ms: rolling shutter, from the first row to the last; the stamp is that of the middle.
    """

    right_yaw_deg: Angle = 0.0
    right_pitch_deg: Angle = 0.0
    right_roll_deg: Angle = 0.0
    focal_error: Part = 0.0
    right_focal_error: Part = 0.0
    baseline_error_m: Annotated[Number, Field(gt=-0.12, le=0.12)] = 0.0
    right_exposure: Annotated[Number, Field(ge=0, le=20)] = 1.0
    right_late_ms: Milliseconds = 0.0
    right_stamp_ms: Milliseconds = 0.0
    readout_ms: Annotated[Number, Field(ge=0, le=100)] = 0.0

    def refuse_others(self, kept: tuple[str, ...], what: str) -> None:
        """Raise SettingsError when another setting than `kept` is set: it would do nothing."""
        idle = [
            one.name
            for one in fields(self)
            if one.name not in kept and getattr(self, one.name) != one.default
        ]
        if idle:
            raise SettingsError(f'rig.{", rig.".join(idle)} would do nothing: {what}')
