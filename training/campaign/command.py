"""The command `cone-training two-stage`: a campaign of days, unattended, from data to verdict."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cone_perception.errors import RecipeError
from training.campaign.interrupts import open_standard_streams
from training.campaign.open import open_campaign
from training.campaign.progress import say
from training.campaign.run import run_campaign
from training.judging.verdict import Outcome
from training.recipe.find import find_recipe
from training.recipe.load import load_recipe
from training.recipe.recipe import Recipe
from training.runs.folder import CampaignFolder

DEFAULT_RECIPE = 'two_stage'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = 'exit codes:\n' + '\n'.join(
        f'  {outcome.value:<4}{outcome.label}' for outcome in Outcome
    )
    parser.add_argument(
        'recipe',
        nargs='*',
        metavar='RECIPE | KEY=VALUE',
        help=f'a recipe (default: {DEFAULT_RECIPE}) and changes, as stage2.lr0=0.0005',
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on with the campaign of that name'
    )
    parser.add_argument(
        '--runs', type=Path, default=Path('runs'), help='folder of all campaigns (default: runs)'
    )
    parser.add_argument('--name', help="of the campaign's folder (default: as the recipe says)")
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
    given: Recipe | None = replace(recipe, name=name)
    if args.resume and not args.recipe:
        given = None  # whatever recipe that campaign has
    folder = CampaignFolder(args.runs.absolute() / name)
    baselines = read_baselines(args.baseline)
    if args.resume and not folder.state.is_file():
        open_campaign(folder, given, baselines, resume=True)  # raises, and makes no folder
    with folder.lock():
        recipe, state = open_campaign(folder, given, baselines, args.resume)
        say(f'campaign {name} in {folder.root}')
        return int(run_campaign(folder, recipe, state))


def read_recipe(words: Sequence[str]) -> Recipe:
    """The recipe that the command line names, with absolute paths: any folder will do to resume."""
    names = [word for word in words if '=' not in word]
    if len(names) > 1:
        raise RecipeError(
            f'one recipe at a time, not {" and ".join(names)}. Changes are KEY=VALUE.'
        )
    path = find_recipe(names[0] if names else DEFAULT_RECIPE)
    recipe = load_recipe(path, [word for word in words if '=' in word])
    model = Path(recipe.model)
    return replace(
        recipe,
        data_root=recipe.data_root.absolute(),
        model=str(model.absolute()) if model.is_file() else recipe.model,
    )


def read_baselines(texts: Sequence[str]) -> dict[str, Path]:
    """NAME=WEIGHTS -> name: path."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition('=')
        if not equals or not re.fullmatch(r'\w[\w-]*', name) or not path or name in found:
            raise RecipeError(
                f'--baseline {text}: write NAME=WEIGHTS, each name once, as '
                'production=weights/team.pt'
            )
        found[name] = Path(path).expanduser()
    return found
