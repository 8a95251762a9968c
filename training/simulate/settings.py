"""Settings of the renderer: the only place where its defaults live."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cone_perception.errors import RecipeError
from cone_perception.files import read_yaml
from training.recipe.kinds import Number, Share, recipe_part

Side = Annotated[int, Field(strict=True, ge=64, le=8192)]


@recipe_part
class SimulateSettings:
    """Settings of what is rendered.

    width_px, height_px: size of the picture.
    min_height_px: smallest labelled box height, in a picture 1280 px wide; it scales with it.
    min_visible: smallest visible fraction of a cone that is still labelled, 0..1.
    vary_camera: each picture has a camera of its own (height, pitch, field of view, lens).
    vary_aspect: some pictures get a black border or a cut-off sky, as real collections have.
    photo: strength of all photometric changes, 0 (none) to 1.
    clutter: amount of background objects, 0 (none) to 1.
    fallen, stripeless: fractions of the cones that lie on the ground or have no stripe.
    """

    width_px: Side = 1280
    height_px: Side = 720
    min_height_px: Annotated[Number, Field(gt=0, lt=1000)] = 4.0
    min_visible: Share = 0.25
    vary_camera: bool = True
    vary_aspect: bool = True
    photo: Share = 1.0
    clutter: Share = 1.0
    fallen: Share = 0.035
    stripeless: Share = 0.03


def read_settings(path: Path | None, scale: float = 1.0) -> SimulateSettings:
    """Settings of a YAML or JSON file, or the defaults, with the picture size scaled.

    Raises RecipeError when the file cannot be read or says what is not known, by name.
    """
    values = (path and read_yaml(path, RecipeError)) or {}
    if not isinstance(values, dict):
        raise RecipeError(f'settings file {path} holds no mapping: write lines of `name: value`')
    settings = SimulateSettings(**values)
    width_px, height_px = round(settings.width_px * scale), round(settings.height_px * scale)
    return replace(settings, width_px=width_px, height_px=height_px)
