"""Settings of the renderer: the only place where its defaults live."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from cone_perception.errors import SettingsError


@dataclass(frozen=True, slots=True)
class SimulateSettings:
    """What is rendered. Sizes marked `at 1280` are for a picture 1280 px wide and scale with it.

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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SimulateSettings:
        """Settings from a mapping; an unknown key is refused by name with SettingsError."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            known = ', '.join(field.name for field in fields(cls))
            raise SettingsError(f'unknown setting {", ".join(unknown)}: known are {known}')
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
