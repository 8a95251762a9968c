"""A campaign's recipe: typed, and checked before anything runs.

recipe.yaml -> Recipe -> arms, runs and stages, each with the folder that it writes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from cone_perception.errors import DataError, OutputError, RecipeError
from training.recipe.recipe_file import (
    Mistakes,
    Problem,
    Range,
    Refuse,
    build,
    check,
    children,
    field_problems,
    merge,
    override,
    plain,
    read_tree,
    text_mapping,
)
from training.recipe.sources import SOURCES

Optimizer = Literal['SGD', 'AdamW', 'Adam', 'MuSGD']
"""What Ultralytics knows, less `auto`, which would ignore lr0."""

SelectBy = Literal['map50', 'map50_95']
TrackingMode = Literal['off', 'offline', 'online']

CANDIDATE = 'two-stage'
BASELINE = 'single-stage'
"""Names of the arms that `Recipe.stages` and `Recipe.baseline` describe."""

Share = Annotated[float, Range(0, 1)]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Pixels = Annotated[int, Range(32)]

WHY_NOT_AUTO = Refuse(
    'auto',
    'it ignores lr0 and takes a learning rate of its own, 0.01 in a long run; name SGD, AdamW, '
    'Adam or MuSGD (why: docs/decisions/optimizer.md)',
)


PROJECT_NEVER = frozenset('/\\#?%:')
PROJECT_LENGTH = 128
"""Signs that wandb 0.31 refuses in a project's name, and the most letters that it may have."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A YOLO data set: a folder with data.yaml.

    path: relative to the recipe's `data_root`, or absolute.
    source: name that `cone-training data fetch` knows; empty: it cannot be fetched.
    images: expected pictures per split; a split that is not named is not counted.
    """

    path: Path
    source: str = ''
    images: Mapping[str, CountOrZero] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)
        if self.source and self.source not in SOURCES:
            yield ('source',), f'{self.source!r} cannot be fetched: {_list(SOURCES)} can'
        for split in self.images:
            if split not in ('train', 'val', 'test'):
                yield ('images', split), 'no such split: train, val and test are'


@dataclass(frozen=True, slots=True)
class Stage:
    """One training phase: Ultralytics' settings under Ultralytics' names.

    name: short, as overrides address it (`stage2.lr0=0.0005`). data: key of the recipe's datasets.
    epochs: 0 leaves the stage out. fraction: share of the training pictures, 0..1; 0 leaves the
    stage out. lr0: peak learning rate. lrf: last learning rate as a share of lr0. warmup_epochs may
    be a fraction. patience: epochs without a better one that end the stage; 0 never does.
    freeze: first layers that are not trained. nbs: pictures per optimizer step.
    crops_per_picture: 0 trains on whole pictures; else on so many square crops of `imgsz` pixels of
    each picture scaled to `crop_width` pixels.
    """

    name: str
    data: str
    epochs: CountOrZero
    batch: Count = 64
    imgsz: Pixels = 640
    optimizer: Annotated[Optimizer, WHY_NOT_AUTO] = 'SGD'
    lr0: Annotated[float, Range(above=0, high=1)] = 0.01
    lrf: Share = 0.01
    cos_lr: bool = False
    momentum: Annotated[float, Range(0, 0.9999)] = 0.937
    weight_decay: Share = 0.0005
    warmup_epochs: NotNegative = 3.0
    warmup_momentum: Annotated[float, Range(0, 0.9999)] = 0.8
    warmup_bias_lr: NotNegative = 0.0
    patience: CountOrZero = 50
    freeze: CountOrZero = 0
    nbs: Count = 64
    fraction: Share = 1.0
    mosaic: Share = 1.0
    close_mosaic: CountOrZero = 10
    mixup: Share = 0.0
    degrees: Annotated[float, Range(0, 180)] = 0.0
    translate: Share = 0.1
    scale: Share = 0.5
    shear: Annotated[float, Range(0, 180)] = 0.0
    perspective: Annotated[float, Range(0, 0.001)] = 0.0
    fliplr: Share = 0.5
    hsv_h: Share = 0.015
    hsv_s: Share = 0.7
    hsv_v: Share = 0.4
    crops_per_picture: CountOrZero = 0
    crop_width: Pixels = 640

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)
        yield from _name_problems(self.name)
        if self.imgsz % 32:
            yield (
                ('imgsz',),
                f'{self.imgsz} is no multiple of 32, the stride of the network: take '
                f'{self.imgsz // 32 * 32 or 32} or {self.imgsz // 32 * 32 + 32}',
            )
        if self.warmup_bias_lr > self.lr0 > 0:
            yield (
                ('warmup_bias_lr',),
                f'{self.warmup_bias_lr} is above lr0 {self.lr0}: the biases would start at '
                f'{self.warmup_bias_lr / self.lr0:.0f} times the peak learning rate; write 0',
            )
        if self.crops_per_picture and self.crop_width < self.imgsz:
            yield (
                ('crop_width',),
                f'{self.crop_width} is less than a crop of imgsz {self.imgsz} pixels',
            )

    @property
    def folder(self) -> str:
        """Name of the folder that the stage writes: stage1_cone_detector_200ep."""
        return f'{self.name}_{self.data}_{self.epochs}ep'

    @property
    def runs(self) -> bool:
        """Whether the stage has anything to do: 0 epochs and 0 % of the pictures leave it out."""
        return self.epochs > 0 and self.fraction > 0


@dataclass(frozen=True, slots=True)
class Guards:
    """When a stage is stopped, and what the report calls overfitted or mismatched.

    forgetting_drop: validation mAP50 on the target below that of the starting weights by more than
    this, for forgetting_epochs epochs in a row, stops the stage. on_forgetting: `stop`, or the name
    of a mitigation recipe to go on with by itself. overfit_map50, forgotten_map50: the strategy's
    signature of issue 1 (above the one on the pre-training set, below the other on the target).
    """

    forgetting_drop: Share = 0.05
    forgetting_epochs: Count = 5
    on_forgetting: str = 'stop'
    overfit_map50: Share = 0.75
    forgotten_map50: Share = 0.68

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)


@dataclass(frozen=True, slots=True)
class Figures:
    """Overall figures of a model on a test set, 0..1; None: not known."""

    map50: Share | None = None
    map50_95: Share | None = None
    precision: Share | None = None
    recall: Share | None = None

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)


@dataclass(frozen=True, slots=True)
class Judging:
    """How models are evaluated and compared.

    imgsz: longer side of the network input, pixels. confidence: the fixed operating point.
    margin: what counts as equal, absolute. resamples: of the bootstrap. block: consecutive files
    resampled together where the drive is not known from the file names; 1: by picture.
    success: the figures that must be exceeded. published: baselines known as figures only.
    """

    imgsz: Pixels = 640
    confidence: Share = 0.25
    margin: Share = 0.01
    resamples: Count = 1000
    block: Count = 1
    success: Figures = field(default_factory=Figures)
    published: Mapping[str, Figures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)
        if self.imgsz % 32:
            yield ('imgsz',), f'{self.imgsz} is no multiple of 32, the stride of the network'


@dataclass(frozen=True, slots=True)
class GateLimits:
    """How much a quantised network may lose against FP32 and still be bundled, absolute.

    map50: of the mAP50. small_recall: of the recall of boxes under 16 px. score_error: mean
    difference of a box's score.
    """

    map50: Share = 0.01
    small_recall: Share = 0.02
    score_error: Share = 0.05

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)


@dataclass(frozen=True, slots=True)
class Leaks:
    """Near-duplicates: at most `bits` of 256 differ. exclude: leave them out of training.

    On real cone pictures copies differed by up to 25 bits, frames of one spot by 35 to 40,
    unrelated pictures by 44 or more (docs/data.md).
    """

    bits: Annotated[int, Range(0, 64)] = 40
    exclude: bool = True

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)


@dataclass(frozen=True, slots=True)
class Tracking:
    """Weights & Biases. project: as W&B takes it. entity: empty: the user's own."""

    mode: TrackingMode = 'off'
    project: str = 'two-stage-training'
    entity: str = ''

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)
        if wrong := sorted(set(self.project) & PROJECT_NEVER):
            yield ('project',), f'{self.project!r} holds {_list(wrong)}, which W&B never takes'
        if len(self.project) > PROJECT_LENGTH:
            yield ('project',), f'has {len(self.project)} letters, W&B takes {PROJECT_LENGTH}'


@dataclass(frozen=True, slots=True)
class Recipe:
    """A campaign.

    name: of its folder below runs/. model: architecture (.yaml) or weights (.pt) to start from.
    target: key of the data set that counts; its test split judges. stages: of the candidate.
    description: one line for people. data_root: relative to the working directory.
    baseline: stages of the single-stage arm; none, or none with epochs: none is trained.
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
    description: str = ''
    data_root: Path = Path('datasets')
    baseline: tuple[Stage, ...] = ()
    sweep: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seeds: tuple[CountOrZero, ...] = (0,)
    device: str | CountOrZero | tuple[CountOrZero, ...] = 0
    amp: bool = True
    workers: CountOrZero = 8
    cache: bool = False
    select_by: SelectBy = 'map50'
    guards: Guards = field(default_factory=Guards)
    judging: Judging = field(default_factory=Judging)
    gate: GateLimits = field(default_factory=GateLimits)
    leaks: Leaks = field(default_factory=Leaks)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        check(self)

    def problems(self) -> Iterator[Problem]:
        yield from field_problems(self)
        yield from _name_problems(self.name)
        if not self.model.endswith(('.yaml', '.yml', '.pt')):
            yield ('model',), f'{self.model!r} is neither an architecture (.yaml) nor weights (.pt)'
        if self.target not in self.datasets:
            yield ('target',), f'{self.target!r} is not among the datasets: {_list(self.datasets)}'
        yield from self._stage_problems()
        yield from self._sweep_problems()
        for key, values in (('seeds', self.seeds), ('device', self.gpus)):
            if len(set(values)) != len(values):
                yield (key,), f'{list(values)} names one twice'
        if not self.seeds:
            yield ('seeds',), 'give at least one, as [0]'
        if (isinstance(self.device, str) and self.device != 'cpu') or self.device == ():
            yield ('device',), f"{self.device!r} is no device: cpu, a GPU's number as 0, or [0, 1]"

    def _stage_problems(self) -> Iterator[Problem]:
        own = {entry.name for entry in fields(Recipe)}
        for kind, stages in (('stages', self.stages), ('baseline', self.baseline)):
            names = [stage.name for stage in stages]
            for place, stage in enumerate(stages):
                name = stage.name
                if name in names[:place]:
                    yield (kind, place, 'name'), f'{name!r} is the name of an earlier stage too'
                if name in own:
                    yield (kind, name, 'name'), f'{name!r} is a key of recipes: name it otherwise'
                if stage.data not in self.datasets:
                    yield (
                        (kind, name, 'data'),
                        f'{stage.data!r} is not among the datasets: {_list(self.datasets)}',
                    )
                if len(self.gpus) > 1 and stage.batch % len(self.gpus):
                    yield (
                        (kind, name, 'batch'),
                        f'{stage.batch} cannot be shared among {len(self.gpus)} GPUs',
                    )
        if not any(stage.runs for stage in self.stages):
            yield ('stages',), 'no stage has epochs and pictures: there is nothing to train'

    def _sweep_problems(self) -> Iterator[Problem]:
        for key, values in self.sweep.items():
            where = ('sweep', key)
            if not values or len(set(values)) != len(values):
                yield where, 'give distinct values, as [0.25, 1.0]'
            for value in values:
                try:
                    swept = _sweep_stages(self.stages, key, value)
                except RecipeError as error:
                    yield where, str(error)
                    break
                if not any(stage.runs for stage in swept):
                    yield where, f'{value:g} leaves nothing to train'

    @property
    def gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs; none on the CPU."""
        if isinstance(self.device, tuple):
            return self.device
        return () if isinstance(self.device, str) else (self.device,)

    def data_folder(self, key: str) -> Path:
        """Folder of a data set, absolute or relative to the working directory."""
        return self.data_root / self.datasets[key].path

    def check_data_folder(self, key: str) -> None:
        """Raises DataError where a data set's folder is not there, and says how to get it."""
        path, source = self.data_folder(key), self.datasets[key].source
        if not path.exists():
            fetch = f': cone-training data fetch {source}' if source else ''
            raise DataError(f'the data set {key} is not in {path}. Put it there{fetch}.')


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
    if name not in {stage.name for stage in stages}:
        raise RecipeError(f'no stage {name!r}: {_list(stage.name for stage in stages)}')
    current = getattr(next(stage for stage in stages if stage.name == name), entry, None)
    known = {one.name for one in fields(Stage)}
    if entry not in known or isinstance(current, (str, bool)):
        raise RecipeError(f'{entry!r} is no number of a stage, as {name}.fraction is')
    if isinstance(current, int) and value != int(value):
        raise RecipeError(f'{entry} takes whole numbers, not {value:g}')
    changed: dict[str, Any] = {entry: int(value) if isinstance(current, int) else value}
    return tuple(replace(stage, **changed) if stage.name == name else stage for stage in stages)


def _name_problems(name: str) -> Iterator[Problem]:
    if not re.fullmatch(r'\w[\w-]*', name, re.ASCII):
        yield ('name',), f'{name!r} becomes part of folder names: letters, digits, _ and - only'


def _list(names: Iterable[str]) -> str:
    return ', '.join(names) or 'there is none'


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe of a file, with `key=value` overrides applied.

    A file may say `extends: NAME`, and then holds only what differs: mappings are merged by key,
    stages by name. Its own file name is the campaign's name where it gives none.
    Raises RecipeError with every mistake: file, line, key, and what is allowed.
    """
    mistakes = Mistakes()
    tree = _read_extended(path, mistakes, ())
    for text in overrides:
        tree = override(Recipe, tree, text, mistakes)
    recipe = build(Recipe, tree, (), mistakes)
    if isinstance(recipe, Recipe):
        mistakes.add_problems(tree, (), _file_problems(recipe))
    mistakes.raise_if_any()
    assert isinstance(recipe, Recipe)  # without a mistake there is one
    return recipe


def _read_extended(path: Path, mistakes: Mistakes, chain: tuple[Path, ...]) -> yaml.Node:
    tree = read_tree(path, mistakes)
    extends = children(tree).get('extends')
    tree.value = [pair for pair in tree.value if pair[0].value != 'extends']
    if 'name' not in children(tree):
        tree.value += text_mapping({'name': path.stem.replace('_', '-')}, tree).value
    if extends is None:
        return tree
    try:
        beside = path.parent / f'{extends.value}.yaml'
        base = beside if beside.is_file() else find_recipe(str(extends.value))
    except RecipeError as error:
        mistakes.add(extends, ('extends',), str(error))
        return tree
    if base.resolve() in (*chain, path.resolve()):
        mistakes.add(extends, ('extends',), f'{base} extends this file in turn')
        return tree
    return merge(_read_extended(base, mistakes, (*chain, path.resolve())), tree)


def _file_problems(recipe: Recipe) -> Iterator[Problem]:
    """What only files outside the recipe can tell."""
    if recipe.guards.on_forgetting != 'stop':
        try:
            find_recipe(recipe.guards.on_forgetting)
        except RecipeError as error:
            yield ('guards', 'on_forgetting'), f'neither `stop` nor a recipe: {error}'
    for kind, stages in (('stages', recipe.stages), ('baseline', recipe.baseline)):
        for stage in stages:
            layers = count_layers(recipe.model) if stage.freeze else None
            if layers is not None and stage.freeze >= layers:
                yield (
                    (kind, stage.name, 'freeze'),
                    f'{stage.freeze} leaves nothing to train: {recipe.model} has {layers} layers',
                )


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every field, so that the file loads back equal. OutputError when it cannot be."""
    text = yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=100)
    half = path.with_name(f'{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, encoding='utf-8')
        half.replace(path)
    except OSError as error:
        raise OutputError(f'recipe {path} cannot be written: {error}') from error


def recipe_sha256(recipe: Recipe) -> str:
    """Of every field, whatever the file's layout was. Two recipes that train alike are equal."""
    text = json.dumps(plain(recipe), sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def find_recipe(name_or_path: str) -> Path:
    """A file that exists, else the shipped recipe of that name, as `two_stage` or `two-stage`.

    Raises RecipeError that names the shipped ones.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name_or_path.replace('-', '_') in shipped:
        return shipped[name_or_path.replace('-', '_')]
    raise RecipeError(
        f'no recipe {name_or_path!r}: neither a file nor one of {", ".join(shipped) or "(none)"}'
    )


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    folder = shipped_folder()
    files = sorted(folder.glob('*.yaml')) if folder is not None else []
    return {path.stem: path for path in files if path.stem not in NETWORKS}


NETWORKS = ('tiny',)
"""Files among the shipped recipes that are architectures."""


def shipped_folder() -> Path | None:
    """Where the recipes lie: in a checkout, or below the prefix that the package lies in.

    The prefix is found from this file upwards, which serves pip (any prefix) and colcon alike.
    """
    here = Path(__file__).resolve()
    candidates = [here.parents[2] / 'config' / 'training']
    candidates += [parent / 'share' / 'training' / 'config' for parent in here.parents]
    return next((folder for folder in candidates if folder.is_dir()), None)


def find_model(model: str) -> Path | str:
    """What Ultralytics is to load: a file that exists, or the name of its own architecture.

    model: a path, the name of a shipped architecture, or one of Ultralytics' (yolo12n.yaml).
    Raises RecipeError: a path that Ultralytics does not find it would ask the network for.
    """
    path = Path(model)
    if path.is_file():
        return path
    if path.suffix == '.pt':
        raise RecipeError(
            f'weights {path.absolute()} are not there. Put the file there '
            f'(https://github.com/ultralytics/assets/releases has {path.name} of its own networks),'
            f' or start from nothing: model={path.stem}.yaml'
        )
    folder = shipped_folder()
    if folder is not None and (folder / model).is_file():
        return folder / model
    if architecture_file(model) is not None:
        return model
    raise RecipeError(
        f'architecture {model} is neither a file nor one that Ultralytics has, as yolo12n.yaml'
    )


def architecture_file(model: str) -> Path | None:
    """YAML file of an architecture; that of yolo12n.pt too, by its name. None: not known here."""
    path = Path(model)
    folder = shipped_folder()
    for candidate in (path, *([folder / path.name] if folder is not None else [])):
        if candidate.suffix in ('.yaml', '.yml') and candidate.is_file():
            return candidate
    package = importlib.util.find_spec('ultralytics')  # which does not import it
    if package is None or not package.submodule_search_locations:
        return None
    stem = re.sub(r'(\d+)([nslmx])(.+)?$', r'\1\3', path.stem)  # yolo12n -> yolo12, as they do
    models = Path(package.submodule_search_locations[0], 'cfg', 'models')
    return next((file for file in models.rglob(f'{stem}.yaml')), None)


def count_layers(model: str) -> int | None:
    """Layers of a network as `freeze` counts them; None where its architecture is not known."""
    path = architecture_file(model)
    if path is None:
        return None
    found = yaml.safe_load(path.read_text(encoding='utf-8'))
    return len(found['backbone']) + len(found['head'])
