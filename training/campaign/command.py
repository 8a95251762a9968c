"""The command `cone-training two-stage`: a campaign of days, unattended, from data to verdict."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cone_perception.errors import OutputError, RecipeError
from cone_perception.files import without_nan
from training.campaign.campaign import Campaign, is_finished
from training.campaign.plan import add_recipe_arguments
from training.campaign.run import open_standard_streams, run_campaign
from training.campaign.steps import check
from training.judging.verdict import Outcome
from training.recipe.load import load_recipe, read_recipe, recipe_sha256, save_recipe
from training.recipe.recipe import Recipe
from training.runs.folder import CampaignFolder, State, now
from training.runs.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = 'exit codes:\n' + '\n'.join(
        f'  {outcome.value:<4}{outcome.label}' for outcome in Outcome
    )
    add_recipe_arguments(parser)
    parser.add_argument(
        '--resume', action='store_true', help='go on with the campaign of that name'
    )
    parser.add_argument(
        '--baseline',
        action='append',
        default=[],
        metavar='NAME=WEIGHTS',
        help='weights to compare with, judged on the same pictures; may be given several times',
    )


def run(args: argparse.Namespace) -> int:
    open_standard_streams()
    if not sys.stderr.isatty():
        os.environ.setdefault('TQDM_DISABLE', '1')  # a bar in a log is a line per step
    recipe = read_recipe(args.recipe)
    name = args.name or recipe.name
    if not re.fullmatch(r'[\w][\w.-]*', name):
        raise RecipeError(f'--name {name}: give the name of a folder, not a path.')
    # With absolute paths it can be resumed from any folder.
    model = str(Path(recipe.model).absolute()) if Path(recipe.model).is_file() else recipe.model
    recipe = replace(recipe, name=name, data_root=recipe.data_root.absolute(), model=model)
    folder = CampaignFolder(args.runs.absolute() / name)
    baselines = read_baselines(args.baseline)
    if args.resume and not folder.state.is_file():  # and no folder is made
        raise OutputError(
            f'there is no campaign in {folder.root} to resume. Start it without --resume, or '
            'give --runs and --name of the one you mean.'
        )
    with folder.lock():
        if folder.state.is_file():
            # Without a recipe, whatever recipe that campaign has.
            given = recipe if args.recipe or not args.resume else None
            recipe, state = resume_campaign(folder, given, baselines, args.resume)
        else:
            state = State(folder.name, recipe_sha256(recipe), now(), baselines=baselines)
            check(Campaign(folder, recipe, state))  # what is refused leaves no campaign behind
            save_recipe(recipe, folder.recipe)
            folder.write_state(state)
        say(f'campaign {name} in {folder.root}')
        return int(run_campaign(folder, recipe, state))


def read_baselines(texts: Sequence[str]) -> dict[str, str]:
    """NAME=WEIGHTS -> name: absolute path."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition('=')
        if not equals or not re.fullmatch(r'\w[\w-]*', name) or not path or name in found:
            raise RecipeError(
                f'--baseline {text}: write NAME=WEIGHTS, each name once, as '
                'production=weights/team.pt'
            )
        found[name] = str(Path(path).expanduser().absolute())
    return found


def resume_campaign(
    folder: CampaignFolder, recipe: Recipe | None, baselines: Mapping[str, str], resume: bool
) -> tuple[Recipe, State]:
    """The recipe and state of a campaign that was started before.

    recipe: None takes the one that it was started with. resume: was asked for. Raises OutputError
    where it was not, and the campaign is unfinished, RecipeError for another recipe than it had.
    """
    state, first = folder.read_state(), load_recipe(folder.recipe)
    changed = changed_keys(without_nan(first), without_nan(recipe)) if recipe else []
    may_change = resume and not is_finished(state) and all(map(is_of_machine, changed))
    if recipe and changed and may_change:
        save_recipe(recipe, folder.recipe)
        state.recipe_sha256 = recipe_sha256(recipe)
        folder.log_event('warning', 'recipe', f'goes on with another {", ".join(changed)}')
        first = recipe
    elif changed:
        raise RecipeError(
            f'the campaign in {folder.root} was started with another {", ".join(changed)}. '
            'Go on with the recipe as it was, or give another --name.'
        )
    if baselines and baselines != state.baselines:
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
    machines = ('device', 'workers', 'cache')
    return key in machines or key.startswith('tracking.') or key.endswith('.batch')


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
