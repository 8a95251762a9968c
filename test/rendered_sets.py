"""Two small rendered data sets, and the smoke recipe's campaign on a copy of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from training.simulate.dataset import write_dataset
from training.simulate.scene import SimulateSettings

COUNTS = {'train': 8, 'val': 4, 'test': 4}


def render_sets(folder: Path) -> Path:
    """FOLDER/pretrain and FOLDER/target, 16 pictures each."""
    settings = replace(
        SimulateSettings(), width_px=192, height_px=108, min_height_px=4.0, vary_aspect=False
    )
    for seed, name in enumerate(('pretrain', 'target')):
        write_dataset(folder / name, settings, seed, COUNTS)
    return folder


def copy_sets(rendered: Path, folder: Path) -> Path:
    """A copy of both sets that may be damaged."""
    for name in ('pretrain', 'target'):
        shutil.copytree(rendered / name, folder / name)
        data_yaml = folder / name / 'data.yaml'
        text = data_yaml.read_text()
        data_yaml.write_text(text.replace(str((rendered / name).resolve()), str(folder / name)))
    return folder


def smoke_words(data: Path) -> list[str]:
    """The smoke recipe, made smaller, on these sets."""
    counts = ', '.join(f'{split}: {count}' for split, count in COUNTS.items())
    words = ['smoke', f'data_root={data}', 'judging.imgsz=96']
    words += [f'datasets.{name}.images={{{counts}}}' for name in ('pretrain', 'target')]
    for stage in ('stage1', 'stage2', 'baseline.single'):
        words += [f'{stage}.imgsz=96', f'{stage}.batch=4', f'{stage}.nbs=4']
    return words
