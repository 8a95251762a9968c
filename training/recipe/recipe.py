"""A campaign's recipe: typed, and checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator

from cone_perception.arguments import option
from cone_perception.errors import DataError, RecipeError
from training.recipe import kinds
from training.recipe.kinds import Problem, raise_problems, recipe_part

CANDIDATE = 'two-stage'
BASELINE = 'single-stage'
"""Names of the arms that `Recipe.stages` and `Recipe.baseline` describe."""

AGAINST_FORGETTING = ('lower_lr', 'cosine')
"""Recipes that the strategy names against catastrophic forgetting."""


@recipe_part
class DataSet:
    """A YOLO data set: a folder with data.yaml.

    path: relative to the recipe's `data_root`, or absolute.
    source: name that `cone-training data fetch` knows; empty: it cannot be fetched.
    images: expected pictures per split; a split that is not named is not counted.
    """

    path: kinds.FilePath
    source: kinds.SourceName = ''
    images: Mapping[kinds.Split, kinds.CountOrZero] = field(default_factory=dict)


@recipe_part
class Stage:
    """One training phase: Ultralytics' settings under Ultralytics' names.

    name: short, as overrides address it (`stage2.lr0=0.0005`). data: key of the recipe's datasets.
    epochs: 0 leaves the stage out. fraction: share of the training pictures, 0..1; 0 leaves the
    stage out. lr0: peak learning rate. lrf: last learning rate as a share of lr0. warmup_epochs may
    be a fraction. patience: epochs without a better one that end the stage; 0 never does.
    freeze: first layers that are not trained. nbs: pictures per optimizer step.
    crops_per_picture: 0 trains on whole pictures; else on so many square crops of `imgsz` pixels of
    each picture, scaled to the `crop_widths` in turn; a width may be repeated.
    """

    name: kinds.FolderName
    data: str
    epochs: kinds.CountOrZero
    batch: kinds.Count = 64
    imgsz: kinds.InputSide = 640
    optimizer: kinds.Optimizer = 'SGD'
    lr0: Annotated[kinds.Number, Field(gt=0, le=1)] = 0.01
    lrf: kinds.Share = 0.01
    cos_lr: StrictBool = False
    momentum: kinds.Momentum = 0.937
    weight_decay: kinds.Share = 0.0005
    warmup_epochs: kinds.NotNegative = 3.0
    warmup_momentum: kinds.Momentum = 0.8
    warmup_bias_lr: kinds.NotNegative = 0.0
    patience: kinds.CountOrZero = 50
    freeze: kinds.CountOrZero = 0
    nbs: kinds.Count = 64
    fraction: kinds.Share = 1.0
    mosaic: kinds.Share = 1.0
    close_mosaic: kinds.CountOrZero = 10
    mixup: kinds.Share = 0.0
    degrees: kinds.Degrees = 0.0
    translate: kinds.Share = 0.1
    scale: kinds.Share = 0.5
    shear: kinds.Degrees = 0.0
    perspective: Annotated[kinds.Number, Field(ge=0, le=0.001)] = 0.0
    fliplr: kinds.Share = 0.5
    hsv_h: kinds.Share = 0.015
    hsv_s: kinds.Share = 0.7
    hsv_v: kinds.Share = 0.4
    crops_per_picture: kinds.CountOrZero = 0
    crop_widths: Annotated[kinds.Widths, Field(validate_default=True)] = (640,)

    @field_validator('warmup_bias_lr')
    @classmethod
    def _check_bias_rate(cls, value: float, info: ValidationInfo) -> float:
        peak = info.data.get('lr0', value)
        if value > peak:
            raise ValueError(
                f'{value} is above lr0 {peak}: the biases would start at {value / peak:.0f} times '
                'the peak learning rate; write 0'
            )
        return value

    @field_validator('crop_widths')
    @classmethod
    def _check_crops(cls, widths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        least, side_px = min(widths), info.data.get('imgsz', 0)
        if info.data.get('crops_per_picture') and least < side_px:
            raise ValueError(f'{least} is less than a crop of imgsz {side_px} pixels')
        return widths

    @property
    def folder(self) -> str:
        """Name of the folder that the stage writes: stage1_cone_detector_200ep."""
        return f'{self.name}_{self.data}_{self.epochs}ep'

    @property
    def runs(self) -> bool:
        """False where 0 epochs or 0 % of the pictures leave nothing to do."""
        return self.epochs > 0 and self.fraction > 0


@recipe_part
class Guards:
    """Limits at which a stage is stopped, and the report calls it overfitted or mismatched.

    forgetting_drop: validation mAP50 on the target below that of the starting weights by more than
    this, for forgetting_epochs epochs in a row, stops the stage. on_forgetting: `stop`, or the name
    of a mitigation recipe to go on with by itself. overfit_map50, forgotten_map50: the strategy's
    signature of issue 1 (above the one on the pre-training set, below the other on the target).
    """

    forgetting_drop: kinds.Share = 0.05
    forgetting_epochs: kinds.Count = 5
    on_forgetting: str = 'stop'
    overfit_map50: kinds.Share = 0.75
    forgotten_map50: kinds.Share = 0.68


@recipe_part
class Figures:
    """Overall figures of a model on a test set, 0..1; None: not known."""

    map50: kinds.Share | None = None
    map50_95: kinds.Share | None = None
    precision: kinds.Share | None = None
    recall: kinds.Share | None = None


@recipe_part
class Judging:
    """Settings by which models are evaluated and compared.

    imgsz: longer side of the network input, pixels. success: the figures that must be exceeded.
    published: baselines known as figures only.
    """

    imgsz: kinds.InputSide = 640
    confidence: kinds.Share = option(0.25, 'the fixed operating point (0.25)')
    margin: kinds.Share = option(0.01, 'what counts as equal, absolute (0.01)')
    resamples: kinds.Count = option(1000, 'draws of the bootstrap (1000)')
    block: kinds.Count = option(
        1,
        'resample drives, or so many consecutive files where the names tell no drive, as one; '
        '1: pictures (1)',
        metavar='FILES',
    )
    success: Figures = field(default_factory=Figures)
    published: Mapping[str, Figures] = field(default_factory=dict)


@recipe_part
class GateLimits:
    """Losses against FP32 up to which a quantised network is still bundled, absolute."""

    map50: kinds.Share = option(0.01, 'most that mAP50 may fall (0.01)', metavar='SHARE')
    small_recall: kinds.Share = option(
        0.02, 'most that the recall of boxes under 16 px may fall (0.02)', metavar='SHARE'
    )
    score_error: kinds.Share = option(
        0.05, 'most that scores may differ by, mean (0.05)', metavar='SHARE'
    )


@recipe_part
class Leaks:
    """Near-duplicates: at most `bits` of 256 differ. exclude: leave them out of training.

    On real cone pictures copies differed by up to 25 bits, frames of one spot by 35 to 40,
    unrelated pictures by 44 or more (docs/data.md).
    """

    bits: Annotated[int, Field(strict=True, ge=0, le=64)] = 40
    exclude: StrictBool = True


@recipe_part
class Tracking:
    """Weights & Biases. entity: empty: the user's own."""

    mode: Literal['off', 'offline', 'online'] = 'off'
    project: kinds.TrackingProject = 'two-stage-training'
    entity: str = ''


@recipe_part
class Recipe:
    """A campaign.

    name: of its folder below runs/. description: one line for people. model: architecture (.yaml)
    or weights (.pt) to start from. data_root: relative to the working directory. target: key of the
    data set that counts; its test split judges. device: cpu, a GPU's number, or several of them.
    stages: of the candidate. baseline: stages of the single-stage arm; none, or none with epochs:
    none is trained. sweep: overrides of the candidate, each an arm of its own:
    {'stage1.fraction': [0, 0.25, 1]}. seeds: each arm is trained once with each.
    workers: processes that read pictures, per GPU. cache: pictures are kept in memory.
    select_by: what best.pt and patience look at, on the stage's validation split.
    """

    _: KW_ONLY
    name: kinds.FolderName
    description: str = ''
    model: kinds.Model
    data_root: kinds.FilePath = Path('datasets')
    datasets: Mapping[str, DataSet]
    target: str
    device: kinds.Device = 0
    stages: tuple[Stage, ...]
    baseline: tuple[Stage, ...] = ()
    sweep: kinds.Sweep = field(default_factory=dict)
    seeds: kinds.Seeds = (0,)
    amp: StrictBool = True
    workers: kinds.CountOrZero = 8
    cache: StrictBool = False
    select_by: Literal['map50', 'map50_95'] = 'map50'
    guards: Guards = field(default_factory=Guards)
    judging: Judging = field(default_factory=Judging)
    gate: GateLimits = field(default_factory=GateLimits)
    leaks: Leaks = field(default_factory=Leaks)
    tracking: Tracking = field(default_factory=Tracking)

    @field_validator('stages', 'baseline')
    @classmethod
    def _check_stages(cls, stages: tuple[Stage, ...], info: ValidationInfo) -> tuple[Stage, ...]:
        raise_problems(_stage_problems(stages, len(kinds.gpu_numbers(info.data.get('device', 0)))))
        if info.field_name == 'stages' and not any(stage.runs for stage in stages):
            raise ValueError('no stage has epochs and pictures: there is nothing to train')
        return stages

    @field_validator('sweep')
    @classmethod
    def _check_sweep(cls, sweep: kinds.Sweep, info: ValidationInfo) -> kinds.Sweep:
        if 'stages' in info.data:
            raise_problems(_sweep_problems(sweep, info.data['stages']))
        return sweep

    @property
    def gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs; none on the CPU."""
        return kinds.gpu_numbers(self.device)

    def data_folder(self, key: str) -> Path:
        """Folder of a data set, absolute or relative to the working directory."""
        return self.data_root / self.datasets[key].path

    def check_data_folder(self, key: str) -> None:
        """Raises DataError where a data set's folder is not there, and says how to get it."""
        path, source = self.data_folder(key), self.datasets[key].source
        if not path.exists():
            fetch = f': cone-training data fetch {source}' if source else ''
            raise DataError(f'the data set {key} is not in {path}. Put it there{fetch}.')


def _stage_problems(stages: Sequence[Stage], gpus: int) -> Iterator[Problem]:
    names = [stage.name for stage in stages]
    for place, (name, stage) in enumerate(zip(names, stages, strict=True)):
        if name in names[:place]:
            yield (place, 'name'), f'{name!r} is the name of an earlier stage too'
        if name in Recipe.__dataclass_fields__:
            yield (place, 'name'), f'{name!r} is a key of recipes: name it otherwise'
        if gpus > 1 and stage.batch % gpus:
            yield (place, 'batch'), f'{stage.batch} cannot be shared among {gpus} GPUs'


def _sweep_problems(sweep: kinds.Sweep, stages: Sequence[Stage]) -> Iterator[Problem]:
    for key, values in sweep.items():
        if not values or len(set(values)) != len(values):
            yield (key,), 'give distinct values, as [0.25, 1.0]'
        for value in values:
            try:
                swept = _sweep_stages(stages, key, value)
            except RecipeError as error:
                yield (key,), str(error)
                break
            if not any(stage.runs for stage in swept):
                yield (key,), f'{value:g} leaves nothing to train'


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training, done once per seed. candidate: False for the baseline."""

    name: str
    stages: tuple[Stage, ...]
    candidate: bool = True


def arms(recipe: Recipe) -> tuple[Arm, ...]:
    """The candidate, or one arm per value of the sweep, then the baseline if it has epochs."""
    swept = [
        Arm(f'{key}={value:g}', _running(_sweep_stages(recipe.stages, key, value)))
        for key, values in recipe.sweep.items()
        for value in values
    ]
    found = swept or [Arm(CANDIDATE, _running(recipe.stages))]
    if baseline := _running(recipe.baseline):
        found.append(Arm(BASELINE, baseline, candidate=False))
    return tuple(found)


def used_datasets(recipe: Recipe) -> list[str]:
    """Keys of the data sets that are trained or judged on, in the recipe's order."""
    used = {stage.data for arm in arms(recipe) for stage in arm.stages} | {recipe.target}
    return [key for key in recipe.datasets if key in used]


def _running(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    return tuple(stage for stage in stages if stage.runs)


def _sweep_stages(stages: Sequence[Stage], key: str, value: float) -> tuple[Stage, ...]:
    name, _, entry = key.partition('.')
    swept = next((stage for stage in stages if stage.name == name), None)
    if swept is None:
        raise RecipeError(f'no stage {name!r}: {kinds.list_names(stage.name for stage in stages)}')
    if isinstance(getattr(swept, entry, None), str):
        raise RecipeError(f'{entry!r} is no number of a stage, as {name}.fraction is')
    number: Any = int(value) if value.is_integer() else value
    changed = replace(swept, **{entry: number})
    return tuple(changed if stage is swept else stage for stage in stages)
