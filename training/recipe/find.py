"""Finds recipes and architectures: a file, the package's own, or one of Ultralytics'."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import yaml

from cone_perception.errors import RecipeError


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
    """Folder of the recipes: in a checkout, or below the prefix that the package lies in.

    The prefix is found from this file upwards, which serves pip (any prefix) and colcon alike.
    """
    here = Path(__file__).resolve()
    candidates = [here.parents[2] / 'config' / 'training']
    candidates += [parent / 'share' / 'training' / 'config' for parent in here.parents]
    return next((folder for folder in candidates if folder.is_dir()), None)


def find_model(model: str) -> Path | str:
    """Tell Ultralytics what to load: a file that exists, or the name of its own architecture.

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
