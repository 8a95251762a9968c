"""Settings of the renderer: the only place where its defaults live."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from cone_perception.errors import SettingsError
from cone_perception.files import read_yaml


@dataclass(frozen=True, slots=True)
class SimulateSettings:
    """Settings of what is rendered.

    Sizes marked `at 1280` are for a picture 1280 px wide and scale with it.

    width_px, height_px: size of the picture.
    min_height_px: smallest labelled box height, at 1280.
    min_visible: smallest visible fraction of a cone that is still labelled, 0..1.
    vary_camera: each picture has a camera of its own (height, pitch, field of view, lens).
    vary_aspect: some pictures get a black border or a cut-off sky, as real collections have.
    photo: strength of all photometric changes, 0 (none) to 1.
    clutter: amount of background objects, 0 (none) to 1.
    fallen, stripeless: fractions of the cones that lie on the ground or have no stripe.
    """

    width_px: int = 1280
    height_px: int = 720
    min_height_px: float = 4.0
    min_visible: float = 0.25
    vary_camera: bool = True
    vary_aspect: bool = True
    photo: float = 1.0
    clutter: float = 1.0
    fallen: float = 0.035
    stripeless: float = 0.03

    def __post_init__(self) -> None:
        if not (64 <= self.width_px <= 8192 and 64 <= self.height_px <= 8192):
            raise SettingsError(
                f'picture size {self.width_px}x{self.height_px} is outside 64..8192: '
                'choose a width and height in between'
            )
        if not 0 < self.min_height_px < 1000:
            raise SettingsError(
                f'min_height_px is {self.min_height_px}, expected 0..1000 exclusive'
            )
        for name in ('min_visible', 'photo', 'clutter', 'fallen', 'stripeless'):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f'{name} is {getattr(self, name)}, expected 0..1')


def read_settings(path: Path | None, scale: float = 1.0) -> SimulateSettings:
    """Settings of a YAML or JSON file, or the defaults, with the picture size scaled.

    Raises SettingsError when the file cannot be read or says what is not known, by name.
    """
    values = (path and read_yaml(path, SettingsError)) or {}
    if not isinstance(values, dict):
        raise SettingsError(f'settings file {path} holds no mapping: write lines of `name: value`')
    known = [field.name for field in fields(SimulateSettings)]
    if unknown := sorted(set(values) - set(known)):
        raise SettingsError(f'unknown setting {", ".join(unknown)}: known are {", ".join(known)}')
    settings = SimulateSettings(**values)
    width_px, height_px = round(settings.width_px * scale), round(settings.height_px * scale)
    return replace(settings, width_px=width_px, height_px=height_px)
