"""What must hold while a stage trains, and the errors when it does not. Knows nothing of torch.

recipe's stage -> what Ultralytics should use -> compared with what it uses
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from cone_perception.errors import ConePerceptionError, DataError
from training.recipe import Guards, Stage

StopReason = Literal['forgetting', 'loss_not_finite', 'out_of_memory', 'disk_full', 'terminated']

MITIGATIONS = ('lower_lr', 'cosine')
"""Recipes that the strategy names against catastrophic forgetting."""

PICTURE_SUFFIXES = frozenset(
    'avif bmp dng heic heif jp2 jpeg jpeg2000 jpg mpo png tif tiff webp'.split()
)
"""Files that Ultralytics 8.4 trains on (ultralytics.data.utils.IMG_FORMATS)."""

MUON_HEAD = 3.0
"""MuSGD of Ultralytics trains the class head at this multiple of lr0."""

ARGUMENTS = (
    'epochs batch imgsz optimizer lr0 lrf cos_lr momentum weight_decay warmup_epochs '
    'warmup_momentum warmup_bias_lr patience freeze nbs fraction mosaic close_mosaic mixup degrees '
    'translate scale shear perspective fliplr hsv_h hsv_s hsv_v'
).split()
"""Fields of a Stage that are arguments of Ultralytics, under the same names."""


class GuardError(ConePerceptionError):
    """What really trains is not what the recipe says."""


class StageStopped(ConePerceptionError):
    """A stage ended before its time; its last checkpoint is whole, and it can go on from there.

    mitigation: names of recipes that may help.
    """

    def __init__(self, reason: StopReason, message: str, mitigation: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.mitigation = tuple(mitigation)


def arguments(stage: Stage) -> dict[str, Any]:
    """The stage's settings as arguments of Ultralytics."""
    return {name: getattr(stage, name) for name in ARGUMENTS}


def check_arguments(used: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise GuardError if Ultralytics' arguments are not those that were asked for."""
    wrong = [
        f'{name} is {used.get(name)!r} instead of {value!r}'
        for name, value in wanted.items()
        if used.get(name) != value
    ]
    if wrong:
        raise GuardError(
            f'Ultralytics does not train what the recipe says: {"; ".join(wrong)}. Either it '
            'changed the setting by itself, or the folder holds a run of another recipe: '
            'give the campaign another name, or correct the recipe.'
        )


def rate_share(stage: Stage, epoch: int) -> float:
    """Learning rate of an epoch (from 0) after warm-up, as a share of its peak."""
    if stage.cos_lr:
        return 1 + (stage.lrf - 1) * (1 - math.cos(math.pi * epoch / stage.epochs)) / 2
    return max(1 - epoch / stage.epochs, 0.0) * (1 - stage.lrf) + stage.lrf


def warmup_batches(stage: Stage, batches: int) -> int:
    """Batches of the warm-up, when an epoch has `batches`; the last epoch is never part of it."""
    return round(max(min(stage.warmup_epochs, stage.epochs - 1), 0) * batches)


def expected_rate(stage: Stage, peak: float, bias: bool, batch: int, batches: int) -> float:
    """Learning rate of a parameter group in batch number `batch` (from 0) of the whole stage.

    peak: the group's highest. bias: biases warm up from warmup_bias_lr, all others from 0.
    """
    target = peak * rate_share(stage, batch // batches)
    warmup = warmup_batches(stage, batches)
    if not warmup or batch > warmup:
        return target
    start = stage.warmup_bias_lr if bias else 0.0
    return start + (target - start) * batch / warmup


def check_rates(
    stage: Stage, groups: Sequence[Mapping[str, Any]], batch: int, batches: int
) -> None:
    """Raise GuardError if a parameter group does not learn at the recipe's rate.

    groups: `lr` and `param_group` (`bias`, ...) of each group of the optimizer.
    """
    peaks = (stage.lr0, stage.lr0 * MUON_HEAD) if stage.optimizer == 'MuSGD' else (stage.lr0,)
    for index, group in enumerate(groups):
        bias = group.get('param_group') == 'bias'
        rates = [expected_rate(stage, peak, bias, batch, batches) for peak in peaks]
        if not any(math.isclose(group['lr'], rate, rel_tol=1e-6, abs_tol=1e-12) for rate in rates):
            raise GuardError(
                f'parameter group {index} ({group.get("param_group", "?")}) learns at '
                f'{group["lr"]:.3g} in batch {batch} instead of {rates[0]:.3g}, as the recipe says.'
            )


def expected_accumulation(stage: Stage, batches: int) -> int:
    """Batches to one optimizer step after warm-up."""
    return min(max(round(stage.nbs / stage.batch), 1), batches * stage.epochs)


def forgotten(map50: Sequence[float], start: float | None, guards: Guards) -> bool:
    """Target mAP50 was too far below the starting weights' in each of the last epochs.

    map50: of each epoch so far. start: of the starting weights; None: they had none.
    """
    last = map50[-guards.forgetting_epochs :]
    if start is None or len(last) < guards.forgetting_epochs:
        return False
    return all(value < start - guards.forgetting_drop for value in last)


def read_data_yaml(path: Path) -> dict[str, Any]:
    """A data.yaml, refused if it is none or would run code. Raises DataError."""
    try:
        data = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f'{path} cannot be read: {error}') from error
    if not isinstance(data, dict) or not data.get('train') or not data.get('val'):
        raise DataError(f'{path} names no train and val pictures: it is no data.yaml of YOLO.')
    if 'download' in data:
        raise DataError(
            f'{path} has a `download` key, which Ultralytics runs as a program. Remove it.'
        )
    return data


def class_names(path: Path) -> list[str]:
    """Names of a data.yaml in the order of their numbers."""
    names = read_data_yaml(path).get('names', [])
    return [names[key] for key in sorted(names)] if isinstance(names, dict) else list(names)


def pictures(path: Path, split: str) -> list[Path]:
    """Pictures of a split of a data.yaml, sorted, as Ultralytics finds them.

    An entry is a folder, or a text file with a picture in each line. Raises DataError.
    """
    data = read_data_yaml(path)
    root = Path(data.get('path') or path.parent)
    root = root if root.is_absolute() else path.parent / root
    entries = data.get(split) or []
    found: set[Path] = set()
    for entry in [entries] if isinstance(entries, str) else entries:
        place = root / entry
        if not place.exists() and entry.startswith('../'):
            place = root / entry[3:]  # as Roboflow writes them, and Ultralytics reads them
        if place.is_dir():
            files = place.rglob('*.*')
        elif place.is_file():
            lines = place.read_text(encoding='utf-8-sig').split('\n')
            files = (place.parent / line.strip() for line in lines if line.strip())
        else:
            raise DataError(f'{path}: {place} of its split `{split}` does not exist.')
        found.update(file for file in files if file.suffix[1:].lower() in PICTURE_SUFFIXES)
    if entries and not found:
        raise DataError(f'{path}: its split `{split}` has no picture.')
    return sorted(found)


def check_data(data_yaml: Path, target_yaml: Path) -> bool:
    """Refuse data that would make the verdict worthless. Returns: val is the target's own val.

    Raises DataError when classes differ from the target's, or when a picture of a test split would
    be trained on or select the model.
    """
    if (names := class_names(data_yaml)) != (wanted := class_names(target_yaml)):
        raise DataError(
            f'{data_yaml} has the classes {names}, but the target {target_yaml} has {wanted}. '
            'Remap one of them (`cone-training data verify`): a model would learn wrong numbers.'
        )
    splits = {split: _whole(data_yaml, split) for split in ('train', 'val')}
    sacred = _whole(data_yaml, 'test') | _whole(target_yaml, 'test')
    for split, files in splits.items():
        if shared := files & sacred:
            raise DataError(
                f'{data_yaml}: {len(shared)} pictures of its split `{split}` are test pictures, '
                f'the first is {min(shared)}. A model judged on them must not see them before.'
            )
    return splits['val'] == _whole(target_yaml, 'val')


def _whole(path: Path, split: str) -> set[Path]:
    return {file.resolve() for file in pictures(path, split)}
