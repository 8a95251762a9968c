"""What Ultralytics trains on: a data.yaml of the campaign's own, made of a verified data set.

verified data set, less what leaks, less what the stage leaves out -> list of pictures -> data.yaml

It names no test split, so no training can look at one; its paths are absolute, so nothing depends
on the working directory; it has no `download:`.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from cone_perception.classes import CLASS_NAMES
from cone_perception.dataset.layout import SPLITS, Layout, read_layout
from cone_perception.errors import DataError
from cone_perception.files import write_whole
from training.recipe.recipe import Stage
from training.runs.folder import CampaignFolder
from training.stage.crops import CropRules, write_crops


def training_pictures(layout: Layout, excluded: Collection[Path], fraction: float) -> list[Path]:
    """Pictures of `train` less the excluded ones; of those a share, the same at every call.

    A smaller share is part of a larger one. Raises DataError when nothing is left.
    """
    pictures = [path for path in layout.splits.get('train', ()) if path not in excluded]
    if fraction < 1:
        random.Random(0).shuffle(pictures)
        pictures = sorted(pictures[: max(1, round(len(pictures) * fraction))], key=str)
    if not pictures:
        raise DataError(
            f'{layout.data_yaml}: no picture is left to train on: {len(excluded)} of `train` are '
            'excluded. See the leaks in the campaign, or set leaks.exclude to false.'
        )
    return pictures


def write_training_set(
    folder: CampaignFolder, stage: Stage, dataset: Path, excluded: Collection[Path] = ()
) -> tuple[Path, int]:
    """Write the data.yaml of a stage. Returns it, and the number of training pictures.

    dataset: verified, with the project's classes. Validation is by whole pictures of `val`.
    """
    layout = read_layout(dataset)
    pictures = training_pictures(layout, excluded, stage.fraction)
    data_yaml = folder.training_set(stage)
    if stage.crops_per_picture:
        pictures = _cut(pictures, data_yaml.parent / 'train', stage)
    _write_data_yaml(data_yaml, {'train': pictures, 'val': list(layout.splits['val'])})
    return data_yaml, len(pictures)


def write_splits(data_yaml: Path, dataset: Path) -> Path:
    """Write a data.yaml with every split of a verified data set, as it is, to evaluate on."""
    layout = read_layout(dataset)
    _write_data_yaml(data_yaml, {name: list(paths) for name, paths in layout.splits.items()})
    return data_yaml


def _cut(pictures: Sequence[Path], split: Path, stage: Stage) -> list[Path]:
    """Crops of the pictures; cut once, and again only if a kill came in between."""
    done = split / 'done'
    if not done.is_file():
        shutil.rmtree(split, ignore_errors=True)
        rules = CropRules(
            per_picture=stage.crops_per_picture, size_px=stage.imgsz, width_px=stage.crop_width
        )
        count = write_crops(pictures, split, rules)
        write_whole(done, f'{count}\n')
    return sorted((split / 'images').iterdir())


def _write_data_yaml(data_yaml: Path, splits: dict[str, list[Path]]) -> None:
    """data.yaml and a text file of pictures beside it for each split."""
    content: dict[str, object] = {'path': str(data_yaml.parent.resolve())}
    for name in SPLITS:
        if name in splits:
            listed = data_yaml.with_name(f'{data_yaml.stem}_{name}.txt')
            write_whole(listed, ''.join(f'{path.absolute()}\n' for path in splits[name]))
            content[name] = listed.name
    content['names'] = dict(enumerate(CLASS_NAMES))
    write_whole(data_yaml, yaml.safe_dump(content, sort_keys=False))
