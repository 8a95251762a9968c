"""The start of a campaign, or its way back into one that was begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cone_perception.errors import OutputError, RecipeError
from cone_perception.files import without_nan
from training.campaign.campaign import Campaign, is_finished
from training.campaign.steps import check
from training.recipe.load import load_recipe, recipe_sha256, save_recipe
from training.recipe.recipe import Recipe
from training.runs.folder import CampaignFolder, State, now

MACHINE_KEYS = ('device', 'workers', 'cache')
"""Keys of a recipe that say where and how quickly it runs, not what is trained."""


def open_campaign(
    folder: CampaignFolder,
    recipe: Recipe | None,
    baselines: Mapping[str, Path],
    resume: bool,
) -> tuple[Recipe, State]:
    """The campaign's recipe and state; a new one is written first.

    recipe: None takes the one that the campaign was started with. Raises OutputError where
    `resume` does not fit what lies in the folder, RecipeError for another recipe than it had, and
    what `steps.check` raises for a new one.
    """
    exists = folder.state.is_file()
    if resume and not exists:
        raise OutputError(
            f'there is no campaign in {folder.root} to resume. Start it without --resume, or '
            'give --runs and --name of the one you mean.'
        )
    if not exists:
        if recipe is None:
            raise RecipeError('a new campaign needs a recipe.')
        state = State(folder.name, recipe_sha256(recipe), now(), baselines=_texts(baselines))
        check(Campaign(folder, recipe, state))  # what is refused leaves no campaign behind
        save_recipe(recipe, folder.recipe)
        folder.write_state(state)
        return recipe, state
    state = folder.read_state()
    first = load_recipe(folder.recipe)
    if recipe is not None:
        changed = changed_keys(without_nan(first), without_nan(recipe))
        if changed and resume and not is_finished(state) and all(map(is_of_machine, changed)):
            save_recipe(recipe, folder.recipe)
            state.recipe_sha256 = recipe_sha256(recipe)
            message = f'goes on with another {", ".join(changed)}'
            folder.log_event('warning', 'recipe', message)
            first = recipe
        elif changed:
            raise RecipeError(
                f'the campaign in {folder.root} was started with another {", ".join(changed)}. '
                'Go on with the recipe as it was, or give another --name.'
            )
    if baselines and _texts(baselines) != state.baselines:
        raise RecipeError(
            f'the campaign in {folder.root} was started with the baselines '
            f'{state.baselines or "(none)"}. Give the same ones, or another --name.'
        )
    if not resume and not is_finished(state):
        raise OutputError(
            f'an unfinished campaign lies in {folder.root}. Give --resume to go on with it, or '
            'another --name to start a new one.'
        )
    return first, state


def is_of_machine(key: str) -> bool:
    """A key that may change on the way: another machine, or less memory. Nothing is trained with
    other pictures, rates or steps for it; a batch's gradients are summed up to `nbs` pictures.
    """
    return key in MACHINE_KEYS or key.startswith('tracking.') or key.endswith('.batch')


def changed_keys(old: Any, new: Any) -> list[str]:
    """Keys of values that differ; stages go by their names."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [key for key in before | after if before.get(key) != after.get(key)]


def _leaves(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {item['name']: item for item in value}
        key = key.removeprefix('stages')
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f'{key}.{name}'.lstrip('.'))
    else:
        yield key, value


def _texts(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path.absolute()) for name, path in paths.items()}
