"""Recipes from files and the command line, and back into files.

recipe.yaml + what it extends + KEY=VALUE -> Recipe, or every mistake with file, line and key
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from cone_perception.errors import OutputError, RecipeError
from cone_perception.files import without_nan, write_whole
from training.recipe.find import count_layers, find_recipe
from training.recipe.mistakes import Key, Problem, problems_of
from training.recipe.recipe import Recipe
from training.recipe.tree import Tree, merge, plain_values, read_tree


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
    try:
        values = plain_values(tree.values)
        recipe = TypeAdapter(Recipe).validate_python(values, context={})
        tree.add_problems(_file_problems(recipe))
    except ValidationError as error:
        tree.add_problems(problems_of(Recipe, error))
    tree.raise_mistakes()
    return recipe


def _read_extended(path: Path, chain: tuple[Path, ...]) -> Tree:
    """A file's tree over the one that it extends. chain: files that extend this one."""
    tree, chain = read_tree(path), (*chain, path.resolve())
    tree.values.setdefault('name', path.stem.replace('_', '-'))
    extends = tree.values.pop('extends', None)
    if extends is None:
        return tree
    where: Key = ('extends',)
    try:
        beside = path.parent / f'{extends}.yaml'
        base = beside if beside.is_file() else find_recipe(str(extends))
    except RecipeError as error:
        tree.add_problems([(where, str(error))])
        return tree
    if base.resolve() in chain:
        tree.add_problems([(where, f'{base} extends this file in turn')])
        return tree
    under = _read_extended(base, chain)
    return Tree(
        merge(under.values, tree.values),
        {**under.places, **tree.places},
        {**under.mistakes, **tree.mistakes},
    )


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
    try:
        write_whole(path, text)
    except OSError as error:
        raise OutputError(f'recipe {path} cannot be written: {error}') from error


def recipe_sha256(recipe: Recipe) -> str:
    """Hash of every field, whatever the file's layout. Recipes that train alike have the same."""
    text = json.dumps(without_nan(recipe), sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()
