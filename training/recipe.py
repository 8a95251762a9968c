"""A campaign's recipe: typed, and checked before anything runs.

recipe.yaml -> Recipe -> arms, runs and stages, each with the folder that it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Optimizer = Literal['SGD', 'AdamW', 'Adam', 'MuSGD']
"""What Ultralytics knows, less `auto`, which would ignore lr0."""

SelectBy = Literal['map50', 'map50_95']
TrackingMode = Literal['off', 'offline', 'online']


@dataclass(frozen=True, slots=True)
class DataSet:
    """A YOLO data set: a folder with data.yaml.

    path: relative to the recipe's `data_root`, or absolute.
    source: name that `cone-training data fetch` knows; empty: it cannot be fetched.
    images: expected pictures per split; a split that is not named is not counted.
    """

    path: Path
    source: str = ''
    images: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """One training phase: Ultralytics' settings under Ultralytics' names.

    name: short, as overrides address it (`stage2.lr0=0.0005`). data: key of the recipe's datasets.
    epochs: 0 leaves the stage out. fraction: share of the training pictures, 0..1; 0 leaves the
    stage out. lr0: peak learning rate. lrf: last learning rate as a share of lr0. warmup_epochs may
    be a fraction. freeze: first layers that are not trained. nbs: pictures per optimizer step.
    crops_per_picture: 0 trains on whole pictures; else on so many square crops of `imgsz` pixels of
    each picture scaled to `crop_width` pixels.
    """

    name: str
    data: str
    epochs: int
    batch: int = 64
    imgsz: int = 640
    optimizer: Optimizer = 'SGD'
    lr0: float = 0.01
    lrf: float = 0.01
    cos_lr: bool = False
    momentum: float = 0.937
    weight_decay: float = 0.0005
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.0
    patience: int = 50
    freeze: int = 0
    nbs: int = 64
    fraction: float = 1.0
    mosaic: float = 1.0
    close_mosaic: int = 10
    mixup: float = 0.0
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    fliplr: float = 0.5
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    crops_per_picture: int = 0
    crop_width: int = 640

    @property
    def folder(self) -> str:
        """Name of the folder that the stage writes: stage1_cone_detector_200ep."""
        return f'{self.name}_{self.data}_{self.epochs}ep'


@dataclass(frozen=True, slots=True)
class Guards:
    """When a stage is stopped, and what the report calls overfitted or mismatched.

    forgetting_drop: validation mAP50 on the target below that of the starting weights by more than
    this, for forgetting_epochs epochs in a row, stops the stage. on_forgetting: `stop`, or the name
    of a mitigation recipe to go on with by itself. overfit_map50, forgotten_map50: the seed's
    signature of issue 1 (above the one on the pre-training set, below the other on the target).
    """

    forgetting_drop: float = 0.05
    forgetting_epochs: int = 5
    on_forgetting: str = 'stop'
    overfit_map50: float = 0.75
    forgotten_map50: float = 0.68


@dataclass(frozen=True, slots=True)
class Figures:
    """Overall figures of a model on a test set, 0..1; None: not known."""

    map50: float | None = None
    map50_95: float | None = None
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class Judging:
    """How models are evaluated and compared.

    imgsz: longer side of the network input, pixels. confidence: the fixed operating point.
    margin: what counts as equal, absolute. resamples: of the bootstrap. block: consecutive files
    resampled together where the drive is not known from the file names; 1: by picture.
    success: the figures that must be exceeded. published: baselines known as figures only.
    """

    imgsz: int = 640
    confidence: float = 0.25
    margin: float = 0.01
    resamples: int = 1000
    block: int = 1
    success: Figures = field(default_factory=Figures)
    published: Mapping[str, Figures] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leaks:
    """Near-duplicates: at most `bits` of 256 differ. exclude: leave them out of training."""

    bits: int = 15
    exclude: bool = True


@dataclass(frozen=True, slots=True)
class Tracking:
    """Weights & Biases. entity: empty: the user's own."""

    mode: TrackingMode = 'off'
    project: str = 'two-stage-training'
    entity: str = ''


@dataclass(frozen=True, slots=True)
class Recipe:
    """A campaign.

    name: of its folder below runs/. model: architecture (.yaml) or weights (.pt) to start from.
    target: key of the data set that counts; its test split judges. stages: of the candidate.
    baseline: stages of the single-stage arm; empty: none is trained.
    sweep: overrides of the candidate, each an arm of its own: {'stage1.fraction': [0, 0.25, 1]}.
    seeds: each arm is trained once with each. device: cpu, a GPU's number, or a list of them.
    workers: processes that read pictures, per GPU. cache: pictures are kept in memory.
    select_by: what best.pt and patience look at, on the stage's validation split.
    """

    name: str
    model: str
    target: str
    datasets: Mapping[str, DataSet]
    stages: tuple[Stage, ...]
    data_root: Path = Path('datasets')
    baseline: tuple[Stage, ...] = ()
    sweep: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    device: str | int | tuple[int, ...] = 0
    amp: bool = True
    workers: int = 8
    cache: bool = False
    select_by: SelectBy = 'map50'
    guards: Guards = field(default_factory=Guards)
    judging: Judging = field(default_factory=Judging)
    leaks: Leaks = field(default_factory=Leaks)
    tracking: Tracking = field(default_factory=Tracking)
