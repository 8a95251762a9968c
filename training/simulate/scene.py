"""A scene: a track with its cones, the light, the ground, everything around; and its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from cone_perception.classes import LARGE_ORANGE, ORANGE, UNKNOWN
from cone_perception.errors import RecipeError
from cone_perception.files import read_yaml
from training.recipe.kinds import Number, Share, recipe_part
from training.simulate.cone import Cone, make_cone, make_palette
from training.simulate.makes import vary_palette
from training.simulate.rig.settings import RigSettings
from training.simulate.scenery.library import KINDS, Library
from training.simulate.scenery.sketch import Colour
from training.simulate.track import LAYOUTS, Paint, Track, make_paint

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
    makes: fraction of the scenes whose cones are of another make than Formula Student's; cones in
    other colours and large cones among the orange ones come and go with it. A drive has none.
    rig: errors of the eyes in a drive.
    """

    width_px: Side = 1280
    height_px: Side = 720
    min_height_px: Annotated[Number, Field(gt=0, lt=1000)] = 4.0
    min_visible: Share = 0.25
    vary_camera: bool = True
    vary_aspect: bool = True
    photo: Share = 1.0
    clutter: Share = 1.0
    fallen: Share = 0.06
    stripeless: Share = 0.03
    makes: Share = 0.25
    rig: RigSettings = RigSettings()


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


@dataclass(frozen=True, slots=True)
class Thing:
    """A flat picture that stands on the ground and faces the camera.

    name, index: which sprite of the library. position_m: (x, y). width_m, height_m: its size.
    mirrored: flipped left to right. gain: (b, g, r) factors on its colours.
    """

    name: str
    index: int
    position_m: tuple[float, float]
    width_m: float
    height_m: float
    mirrored: bool
    gain: Colour


@dataclass(frozen=True, slots=True)
class Ground:
    """Look of the ground: indices of textures, their strength, and the colour under full light.

    fine_m, coarse_m, shade_m: width of one tile of each texture. shade: threshold of the pattern
    of tree shadows, 256 for none; shade_soft: width of its edge in grey levels.
    wet: how much of the sky puddles throw back, 0..1.
    """

    colour: Colour
    fine: int
    coarse: int
    fine_strength: float
    coarse_strength: float
    fine_m: float
    coarse_m: float
    turn_rad: float
    shade: int
    shade_m: float
    shade_soft: float
    wet: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that does not move.

    zenith, horizon, cloud: colours of the sky, BGR. cover: of clouds, 0 clear to 1 overcast.
    wind_m: their offset. sun: unit vector to it. sunlight + skylight: 1 is the normal brightness.
    haze: 0..1, colour of the horizon mixed in at 100 m.
    """

    track: Track
    cones: tuple[Cone, ...]
    things: tuple[Thing, ...]
    paint: tuple[Paint, ...]
    ground: Ground
    zenith: Colour
    horizon: Colour
    cloud: Colour
    cover: float
    wind_m: tuple[float, float]
    sun: tuple[float, float, float]
    sunlight: float
    skylight: float
    haze: float


def make_scene(
    rng: np.random.Generator,
    settings: SimulateSettings,
    library: Library,
    layout: str | None = None,
) -> Scene:
    """A scene; layout: circuit, straight, group, or None to choose by chance."""
    if layout is None:
        layout = str(rng.choice(['circuit', 'straight', 'group'], p=[0.45, 0.17, 0.38]))
    track = LAYOUTS[layout](rng)
    overcast = rng.random() < 0.4
    elevation = math.radians(rng.uniform(10, 70))
    azimuth = rng.uniform(0, 2 * math.pi)
    flat = math.cos(elevation)
    sun = (flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation))
    sunlight = rng.uniform(0.0, 0.25) if overcast else rng.uniform(0.45, 1.0)
    skylight = rng.uniform(0.65, 0.95) if overcast else rng.uniform(0.22, 0.5)
    ground = _make_ground(rng, library)
    # A stream of its own: without other makes all else stays as it is.
    other = rng.spawn(1)[0]
    palette = vary_palette(other, make_palette(rng), settings.makes)
    large = 0.5 if other.random() < 1.4 * settings.makes else 0.0
    shade_side = rng.random() < 0.12
    fallen = min(settings.fallen * (1.5 if layout == 'group' else 1), 1.0)
    cones = []
    for place, cone_class in zip(track.cones_m, track.cone_class, strict=True):
        if layout == 'circuit' and rng.random() < 0.02:
            continue
        x, y = (place + rng.normal(0, 0.06, 2)).tolist()
        kind, stripeless = int(cone_class), settings.stripeless
        if kind == ORANGE and other.random() < large:
            kind = LARGE_ORANGE
        cones.append(make_cone(rng, palette, (x, y), kind, fallen, stripeless))
    if rng.random() < 0.08:
        # A row of plain cones, as events use them to close roads.
        start = rng.uniform(-25, 25, 2)
        step = rng.uniform(0.8, 4) * np.array([math.cos(azimuth), math.sin(azimuth)])
        for k in range(int(rng.integers(2, 9))):
            x, y = (start + k * step).tolist()
            cones.append(make_cone(rng, palette, (x, y), UNKNOWN, 0.02, 0.0))
    if rng.random() < 0.1:
        # Spare cones close together, large ones too.
        x, y = rng.uniform(-20, 20, 2).tolist()
        for _ in range(int(rng.integers(2, 7))):
            spot = (x + rng.normal(0, 0.5), y + rng.normal(0, 0.5))
            kind = int(rng.choice([0, LARGE_ORANGE, 2, 4]))
            cones.append(make_cone(rng, palette, spot, kind, 0.05, 0.02))
    dappled = rng.random() < 0.25
    if shade_side or dappled:
        cones = [
            replace(cone, lit=0.0) if shade_side or rng.random() < 0.4 else cone for cone in cones
        ]
    horizon = np.clip(rng.uniform(190, 255) + rng.normal(0, 10, 3), 0, 255).tolist()
    blue = rng.uniform(0.3, 1.0)
    zenith = (235.0 * rng.uniform(0.7, 1.05), 170 * (1.1 - 0.4 * blue), 150 * (1.2 - 0.9 * blue))
    cloud_grey = rng.uniform(150, 255)
    return Scene(
        track=track,
        zenith=zenith if not overcast else (cloud_grey * 0.9,) * 3,
        horizon=tuple(horizon),
        cloud=(cloud_grey, cloud_grey * 0.98, cloud_grey * 0.97),
        cover=rng.uniform(0.6, 1.0) if overcast else rng.uniform(0, 0.6),
        wind_m=(rng.uniform(-4000, 4000), rng.uniform(-4000, 4000)),
        cones=tuple(cones),
        things=tuple(_make_things(rng, settings, library, track, layout)),
        paint=tuple(make_paint(rng, track)),
        ground=ground,
        sun=sun,
        sunlight=sunlight * (0.0 if shade_side else 1.0),
        skylight=skylight * (1.3 if shade_side else 1.0),
        haze=rng.uniform(0, 0.5) if rng.random() < 0.4 else rng.uniform(0, 0.08),
    )


def _make_ground(rng: np.random.Generator, library: Library) -> Ground:
    kind = rng.random()
    grey = rng.uniform(85, 180)
    tint = rng.normal(0, 4, 3) + np.array([-3, 0, 3]) * rng.uniform(-1, 2.5)
    if kind < 0.08:
        tint = tint + np.array([-18, -4, 8])
    slabs = len(library.fine) - 1
    fine = slabs if rng.random() < 0.1 else int(rng.integers(0, slabs))
    return Ground(
        colour=tuple(np.clip(grey + tint, 20, 220).tolist()),
        fine=fine,
        coarse=int(rng.integers(0, len(library.coarse))),
        fine_strength=rng.uniform(0.12, 1.0),
        coarse_strength=rng.uniform(0.03, 0.32) * rng.random() ** 0.5,
        fine_m=rng.uniform(1.5, 5.0),
        coarse_m=rng.uniform(20, 80),
        turn_rad=rng.uniform(0, 2 * math.pi),
        shade=int(rng.uniform(110, 150)) if rng.random() < 0.15 else 256,
        shade_m=rng.uniform(6, 40),
        shade_soft=rng.uniform(2, 30),
        wet=rng.uniform(0.2, 0.8) if rng.random() < 0.1 else 0.0,
    )


def _make_things(
    rng: np.random.Generator,
    settings: SimulateSettings,
    library: Library,
    track: Track,
    layout: str,
) -> list[Thing]:
    things: list[Thing] = []
    middle = track.centre_m.mean(0)
    radius = float(np.hypot(*(track.centre_m - middle).T).max()) if track.closed else 15.0
    centre_x, centre_y = np.ascontiguousarray(track.centre_m.T)
    cones_x, cones_y = np.ascontiguousarray(track.cones_m.T)

    def put(name: str, distance: float, angle: float, size: float | None = None) -> None:
        index = int(rng.integers(0, len(library.sprites[name])))
        sprite = library.sprites[name][index][0]
        height = size if size is not None else rng.uniform(*KINDS[name][2])
        x, y = (middle + distance * np.array([math.cos(angle), math.sin(angle)])).tolist()
        near = np.hypot(centre_x - x, centre_y - y).min()
        room = {'forest': 55.0, 'building': 9.0, 'stand': 5.0, 'tent': 4.0, 'tree': 3.5, 'car': 3.0}
        if near < room.get(name, track.width_m / 2 + 0.8 if layout != 'group' else 0.0):
            return
        width = height * sprite.shape[1] / sprite.shape[0] * rng.uniform(0.7, 1.4)
        if len(track.cones_m) and np.hypot(cones_x - x, cones_y - y).min() < 0.3 + width / 4:
            return
        tone = rng.uniform(0.5, 1.25)
        gain = tuple((tone * rng.uniform(0.88, 1.12, 3)).tolist())
        mirrored = bool(rng.random() < 0.5)
        things.append(Thing(name, index, (x, y), width, height, mirrored, gain))

    ring = radius + 6
    amount = settings.clutter * rng.uniform(0.4, 1.5)
    # Far: hills and forests all around, or hardly any.
    wooded = rng.uniform(0.0, 1.0) * min(settings.clutter, 1.0)
    for angle in np.arange(0, 6.28, 0.2).tolist():
        if rng.random() < wooded:
            put('forest', rng.uniform(60, 300), angle + rng.uniform(-0.2, 0.2), rng.uniform(3, 18))
    counts = {
        'building': (16, 10, 150),
        'tree': (22, 4, 110),
        'wall': (34, 2, 60),
        'stand': (8, 4, 70),
        'tent': (6, 3, 60),
        'car': (12, 3, 60),
        'person': (14, 1, 50),
        'thing': (40, -12, 50),
        'post': (18, -6, 50),
        'mimic': (16, -12, 30),
        'wheel': (4, -8, 20),
    }
    for name, (most, nearest, farthest) in counts.items():
        if rng.random() < 0.3:
            continue
        for _ in range(int(rng.uniform(0, most) * amount)):
            distance = max(ring + nearest, 2.0) + (farthest - nearest) * rng.random() ** 1.5
            if name in ('thing', 'post', 'mimic', 'wheel', 'person') and rng.random() < 0.35:
                distance = rng.uniform(2, ring)
            put(name, distance, rng.uniform(0, 6.28))
    rows = [0, 1, 2, 3] if layout != 'group' else [0, 2, 3, 4]
    for _ in range(int(rng.choice(rows) * settings.clutter)):
        # A long row of one kind along one side: barriers, stands, a street of houses.
        name = str(rng.choice(['wall', 'wall', 'stand', 'building', 'building', 'tree', 'car']))
        index = int(rng.integers(0, len(library.sprites[name])))
        turn, far = rng.uniform(0, 6.28), ring + rng.uniform(1, 40)
        height = rng.uniform(*KINDS[name][2]) * (1.3 if name == 'wall' else 1.0)
        sprite = library.sprites[name][index][0]
        width = height * sprite.shape[1] / sprite.shape[0]
        for k in range(-12, 13):
            x = middle[0] + far * math.cos(turn) - k * width * math.sin(turn)
            y = middle[1] + far * math.sin(turn) + k * width * math.cos(turn)
            things.append(Thing(name, index, (x, y), width, height, False, (0.9, 0.9, 0.9)))
    return things
