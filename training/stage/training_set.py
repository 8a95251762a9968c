"""Writes the data of a training: a data.yaml of the campaign's own, made of a verified data set.

It names no test split, so no training can look at one, and only absolute paths, and no `download:`.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from cone_perception.arguments import option
from cone_perception.classes import CLASS_NAMES
from cone_perception.dataset.labels import corners_px, label_rows, label_text, read_labels
from cone_perception.dataset.layout import SPLITS, label_path, read_layout
from cone_perception.errors import DataError, SourceError
from cone_perception.files import write_whole
from cone_perception.images import read_picture
from cone_perception.preprocess import PAD_VALUE, letterbox
from cone_perception.types import Float32, UInt8
from training.recipe.recipe import Stage
from training.runs.folder import CampaignFolder


def write_training_set(
    folder: CampaignFolder, stage: Stage, dataset: Path, excluded: Collection[Path] = ()
) -> tuple[Path, int]:
    """Write the data.yaml of a stage. Returns it, and the number of training pictures.

    dataset: verified, with the project's classes. Validation is by whole pictures of `val`. Of what
    is not excluded, the stage's share is the same at every call, and part of a larger share.
    Raises DataError when nothing is left.
    """
    layout = read_layout(dataset)
    pictures = [path for path in layout.splits.get('train', ()) if path not in excluded]
    if stage.fraction < 1:
        random.Random(0).shuffle(pictures)
        pictures = sorted(pictures[: max(1, round(len(pictures) * stage.fraction))], key=str)
    if not pictures:
        raise DataError(
            f'{dataset}: no picture is left to train on: {len(excluded)} of `train` are '
            'excluded. See the leaks in the campaign, or set leaks.exclude to false.'
        )
    data_yaml = folder.training_set(stage)
    if stage.crops_per_picture:
        split = data_yaml.parent / 'train'
        done = split / 'done'
        if not done.is_file():  # cut once, and again only if a kill came in between
            shutil.rmtree(split, ignore_errors=True)
            rules = CropRules(stage.crops_per_picture, stage.imgsz, stage.crop_widths)
            write_whole(done, f'{write_crops(pictures, split, rules)}\n')
        pictures = sorted((split / 'images').iterdir())
    _write_data_yaml(data_yaml, {'train': pictures, 'val': list(layout.splits['val'])})
    return data_yaml, len(pictures)


def write_splits(data_yaml: Path, dataset: Path) -> None:
    """Write a data.yaml with every split of a verified data set, as it is, to evaluate on."""
    layout = read_layout(dataset)
    _write_data_yaml(data_yaml, {name: list(paths) for name, paths in layout.splits.items()})


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


MOST_MAGNIFIED = 2
"""Times that a crop may magnify the picture's own pixels, above the least width."""

SMALL_PX = 64
"""Height up to which crops above the least width are aimed at a cone: a nearer one is looked at in
the whole picture."""

AIMED = 0.8
"""Share of the crops above the least width that are aimed: far cones stand close together."""


@dataclass(frozen=True, slots=True)
class CropRules:
    """Rules by which pictures are cut. At the least width every second crop is aimed at a cone."""

    per_picture: int = option(2, 'crops of each picture (2)')
    size_px: int = option(320, 'side of a crop (320)')
    widths_px: tuple[int, ...] = option(
        (640,), "the picture's widths; crops take them in turn, and one may be repeated (640)"
    )
    visible: float = option(0.3, "least share of a box's area inside the crop, else dropped (0.3)")
    height_px: float = option(4.0, 'least height of a clipped box, in network pixels (4)')
    seed: int = option(0, "of the crops' positions (0)")


def write_crops(images: Iterable[Path], split: Path, rules: CropRules) -> int:
    """Cut pictures into `split`/images and `split`/labels. Returns the number of crops.

    Labels have the project's classes and lie where Ultralytics looks for them.
    Raises SourceError for a picture or a label that cannot be read.
    """
    random = np.random.default_rng(rules.seed)
    for folder in ('images', 'labels'):
        (split / folder).mkdir(parents=True, exist_ok=True)
    count = 0
    for path in images:
        labels = read_labels(label_path(path), len(CLASS_NAMES))
        for fault in labels.refused:
            raise SourceError(f'{label_path(path)}:{fault.line}: {fault.message}. Mend the label.')
        for crop, inside in crops_of(read_picture(path), labels.rows, rules, random, count):
            image = split / 'images' / f'{count:06d}.jpg'
            if not cv2.imwrite(str(image), crop, [cv2.IMWRITE_JPEG_QUALITY, 95]):
                raise SourceError(f'{image} cannot be written. Is there space left?')
            rows = label_rows(inside[:, 0], inside[:, 1:], rules.size_px, rules.size_px)
            (split / 'labels' / f'{count:06d}.txt').write_text(label_text(rows), encoding='utf-8')
            count += 1
    return count


def crops_of(
    source: UInt8, rows: Float32, rules: CropRules, random: np.random.Generator, turn: int = 0
) -> Iterator[tuple[UInt8, Float32]]:
    """Cut square crops out of one picture, each at the width whose turn it is.

    rows: of the label file. turn: crops of earlier pictures, so that the widths' turn goes on.
    Yields crops and their labels, (N, 5) class, left, top, right, bottom in the crop's pixels.
    """
    size_px, least = rules.size_px, min(rules.widths_px)
    scaled: dict[int, tuple[UInt8, Float32]] = {}
    at_least = 0
    for place in range(turn, turn + rules.per_picture):
        wanted = rules.widths_px[place % len(rules.widths_px)]
        width = max(least, min(wanted, MOST_MAGNIFIED * source.shape[1]))
        if width not in scaled:
            scaled[width] = _scaled(source, rows, width)
        picture, labels = scaled[width]
        room = np.maximum(np.array(picture.shape[1::-1]) - size_px, 0)
        corner = random.integers(0, room + 1)
        aims = labels
        if width == least:
            aimed, at_least = at_least % 2 == 0, at_least + 1
        else:
            small = labels[labels[:, 4] - labels[:, 2] <= SMALL_PX]
            aims, aimed = small if len(small) else labels, random.random() < AIMED
        if aimed and len(aims):
            box = aims[random.integers(len(aims))]
            aim = (box[1:3] + box[3:5]) / 2 - random.uniform(0.2, 0.8, 2) * size_px
            corner = np.clip(aim, 0, room).astype(int)
        left, top = (int(value) for value in corner)
        crop = np.full((size_px, size_px, 3), PAD_VALUE, np.uint8)
        part = picture[top : top + size_px, left : left + size_px]
        crop[: part.shape[0], : part.shape[1]] = part
        yield crop, clip_boxes(labels, left, top, rules)


def clip_boxes(labels: Float32, left_px: int, top_px: int, rules: CropRules) -> Float32:
    """Labels of the crop with this corner: moved, clipped, and dropped where little is left."""
    moved = labels - np.array([0, left_px, top_px, left_px, top_px], np.float32)
    clipped = moved.copy()
    clipped[:, 1:] = np.clip(moved[:, 1:], 0, rules.size_px)
    sides, whole = (boxes[:, 3:] - boxes[:, 1:3] for boxes in (clipped, moved))
    visible = sides.prod(axis=1) / np.maximum(whole.prod(axis=1), 1e-6)
    selected: Float32 = clipped[(visible >= rules.visible) & (sides[:, 1] >= rules.height_px)]
    return selected


def _scaled(source: UInt8, rows: Float32, width_px: int) -> tuple[UInt8, Float32]:
    """A picture at this width, scaled as a letterbox does, and its labels in pixels."""
    height = max(1, round(source.shape[0] * width_px / source.shape[1]))
    boxes = corners_px(rows, width_px, height)
    return letterbox(source, height, width_px), np.concatenate([rows[:, :1], boxes], axis=1)
