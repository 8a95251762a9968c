"""Recipes found, read from files and the command line, and written back into files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from cone_perception.errors import OutputError, RecipeError, hint, told_as
from cone_perception.files import read_yaml, without_nan, write_whole
from training.recipe.kinds import Key, Problem, problems_of
from training.recipe.recipe import Recipe
from training.recipe.tree import LISTS, Tree, merge, plain_values, read_tree

DEFAULT_RECIPE = 'two_stage'


def read_recipe(words: Sequence[str]) -> Recipe:
    """The recipe that the words of a command line name, with their KEY=VALUE applied."""
    names = [word for word in words if '=' not in word]
    if len(names) > 1:
        told = f'one recipe at a time, not {" and ".join(names)}. Changes are KEY=VALUE.'
        raise RecipeError(told)
    path = find_recipe(names[0] if names else DEFAULT_RECIPE)
    return load_recipe(path, [word for word in words if '=' in word])


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe of a file, with `key=value` overrides applied.

    A file may say `extends: NAME`, and then holds only what differs: mappings are merged by key,
    stages by name. Its own file name is the campaign's name where it gives none.
    Raises RecipeError with every mistake: file, line, key, and what is allowed.
    """
    tree = _read_extended(path, ())
    known = [entry.name for entry in fields(Recipe)]
    for text in overrides:
        tree.change(text, known)
    values = plain_values(tree.values)
    tree.add_problems(_dataset_problems(values))
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
        tree.add_problems(_file_problems(recipe))
    except ValidationError as error:
        tree.add_problems(problems_of(Recipe, error))
    if len(tree.mistakes) > 1:
        raise RecipeError('\n  '.join([f'{len(tree.mistakes)} mistakes:', *tree.mistakes]))
    for mistake in tree.mistakes:
        raise RecipeError(mistake)
    return recipe


def _read_extended(path: Path, chain: tuple[Path, ...]) -> Tree:
    """A file's tree over the one that it extends. chain: files that extend this one."""
    tree, chain = read_tree(path), (*chain, path.resolve())
    tree.values.setdefault('name', path.stem.replace('_', '-'))
    extends = tree.values.pop('extends', None)
    if extends is None:
        return tree
    beside = path.parent / f'{extends}.yaml'
    try:
        base = beside if beside.is_file() else find_recipe(str(extends))
        if base.resolve() in chain:
            raise RecipeError(f'{base} extends this file in turn')
    except RecipeError as error:
        raise RecipeError(f'{tree.places["extends",]}: extends: {error}') from None
    under = _read_extended(base, chain)
    return Tree(
        merge(under.values, tree.values),
        {**under.places, **tree.places},
        {**under.mistakes, **tree.mistakes},
    )


def _dataset_problems(values: Any) -> Iterator[Problem]:
    """Tell names of data sets that the recipe does not have, whatever else is wrong in it."""
    datasets = values.get('datasets')
    named: dict[Key, Any] = {('target',): values.get('target')}
    for kind in LISTS:
        stages = values.get(kind)
        for place, stage in enumerate(stages if isinstance(stages, list) else ()):
            if isinstance(stage, dict):
                named[kind, place, 'data'] = stage.get('data')
    for key, name in named.items():
        if isinstance(datasets, dict) and isinstance(name, str) and name not in datasets:
            yield key, f'{name!r} is not among the datasets{hint(name, datasets)}'


def _file_problems(recipe: Recipe) -> Iterator[Problem]:
    """Tell what only files outside the recipe show."""
    if recipe.guards.on_forgetting != 'stop':
        try:
            find_recipe(recipe.guards.on_forgetting)
        except RecipeError as error:
            yield ('guards', 'on_forgetting'), f'neither `stop` nor a recipe: {error}'
    for kind, stages in (('stages', recipe.stages), ('baseline', recipe.baseline)):
        for place, stage in enumerate(stages):
            layers = count_layers(recipe.model) if stage.freeze else None
            if layers is not None and stage.freeze >= layers:
                yield (
                    (kind, place, 'freeze'),
                    f'{stage.freeze} leaves nothing to train: {recipe.model} has {layers} layers',
                )


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every field, so that the file loads back equal. OutputError when it cannot be."""
    text = yaml.safe_dump(without_nan(recipe), sort_keys=False, allow_unicode=True, width=100)
    with told_as(OutputError, f'recipe {path} cannot be written'):
        write_whole(path, text)


def recipe_sha256(recipe: Recipe) -> str:
    """Hash of every field, whatever the file's layout. Recipes that train alike have the same."""
    text = json.dumps(without_nan(recipe), sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def find_recipe(name_or_path: str) -> Path:
    """A file, else the shipped recipe of that name (`two_stage`, `two-stage`), or RecipeError."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    shipped, name = shipped_recipes(), name_or_path.replace('-', '_')
    if name in shipped:
        return shipped[name]
    raise RecipeError(f'no recipe {name_or_path!r}, nor a file{hint(name, shipped)}')


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    files = sorted(shipped_folder().glob('*.yaml'))
    return {path.stem: path for path in files if path.stem != 'tiny'}  # which is a network


def shipped_folder() -> Path:
    """Folder of the recipes: in a checkout, or below the prefix upwards from here (pip, colcon)."""
    here = Path(__file__).resolve()
    candidates = [here.parents[2] / 'config' / 'training']
    candidates += [parent / 'share' / 'training' / 'config' for parent in here.parents]
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def find_model(model: str) -> Path | str:
    """Tell Ultralytics what to load: a file that exists, or the name of its own architecture.

    model: a path, the name of a shipped architecture, or one of Ultralytics' (yolo12n.yaml).
    Raises RecipeError: a path that Ultralytics does not find it would ask the network for.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.suffix == '.pt':
        raise RecipeError(
            f'weights {path.absolute()} are not there. Put the file there '
            f'(https://github.com/ultralytics/assets/releases has {path.name} of its own networks),'
            f' or start from nothing: model={path.stem}.yaml'
        )
    shipped = shipped_folder() / model
    if shipped.is_file():
        return shipped
    if architecture_file(model) is not None:
        return model
    raise RecipeError(
        f'architecture {model} is neither a file nor one that Ultralytics has, as yolo12n.yaml'
    )


def architecture_file(model: str) -> Path | None:
    """YAML file of an architecture; that of yolo12n.pt too, by its name. None: not known here."""
    path = Path(model)
    for candidate in (path, shipped_folder() / path.name):
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
    found = read_yaml(path, RecipeError)
    return len(found['backbone']) + len(found['head'])
