"""A campaign from its first step to its verdict, whatever happens in between.

recipe -> state -> the first step that is not done -> ... -> outcome

Every step may be cut short anywhere and done again; campaign.json says which are done.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from cone_perception.errors import OutputError, RecipeError
from cone_perception.files import without_nan
from training.campaign.status import Heartbeat, read_progress, say
from training.campaign.steps import CampaignStoppedError, Steps, Task
from training.judging.verdict import Outcome
from training.recipe.load import load_recipe, recipe_sha256, save_recipe
from training.recipe.recipe import Recipe
from training.runs.folder import CampaignFolder, EventKind, State, Step, now
from training.runs.machine import EnergyMeter, read_commit, read_hardware, read_versions

MACHINE_KEYS = ('device', 'workers', 'cache')
"""Keys of a recipe that say where and how quickly it runs, not what is trained."""


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP came."""


def open_campaign(
    folder: CampaignFolder,
    recipe: Recipe | None,
    baselines: Mapping[str, Path],
    resume: bool,
) -> tuple[Recipe, State]:
    """The campaign's recipe and state; a new one is written first.

    recipe: None takes the one that the campaign was started with. Raises OutputError where
    `resume` does not fit what lies in the folder, RecipeError for another recipe than it had, and
    what `Steps.check` raises for a new one.
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
        Steps(folder, recipe, state).check()  # what is refused leaves no campaign behind
        save_recipe(recipe, folder.recipe)
        folder.write_state(state)
        return recipe, state
    state = folder.read_state()
    first = load_recipe(folder.recipe)
    if recipe is not None:
        changed = list(changed_keys(without_nan(first), without_nan(recipe)))
        if changed and resume and not _ended(state) and all(map(is_of_machine, changed)):
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
    if not resume and not _ended(state):
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


def changed_keys(old: Any, new: Any, key: str = '') -> Iterator[str]:
    """Keys of values that differ; items of a list of stages go by their names."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            yield from changed_keys(old.get(name), new.get(name), f'{key}.{name}'.lstrip('.'))
    elif _named(old) and _named(new):
        yield from changed_keys(
            {item['name']: item for item in old}, {item['name']: item for item in new}, key
        )
    elif old != new:
        yield key.removeprefix('stages.')


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _texts(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path.absolute()) for name, path in paths.items()}


def _ended(state: State) -> bool:
    return state.outcome is not None and Outcome.of(state.outcome).finished


def run_campaign(folder: CampaignFolder, recipe: Recipe, state: State) -> Outcome:
    """Work until the campaign has ended. The caller holds the folder's lock.

    What a person or the machine can cause becomes the outcome; any other error is raised, after it
    was recorded: `--resume` goes on there.
    """
    if _ended(state):
        say(f'the campaign in {folder.root} is finished: {state.message}')
        return Outcome.of(str(state.outcome))
    state.pid = os.getpid()
    state.outcome, state.ended, state.message = None, None, ''
    state.hardware, state.versions, state.commit = read_hardware(), read_versions(), read_commit()
    steps = Steps(folder, recipe, state)
    try:
        with raise_on_signals():
            steps.check()
            folder.write_state(state)
            while (task := _next_task(folder, steps)) is not None:
                _do(folder, recipe, state, task)
        outcome, message = steps.outcome()
    except BaseException as error:
        ending = ending_of(error, folder)
        if ending is None:
            _record(folder, state, None, f'{type(error).__name__}: {error}')
            raise
        outcome, message = ending
    _record(folder, state, outcome, message)
    say(f'{outcome.label}: {message}')
    if outcome in (Outcome.VERIFICATION_FAILED, Outcome.STOPPED_BY_GUARD):
        _report_stop(folder, steps)
    return outcome


def _report_stop(folder: CampaignFolder, steps: Steps) -> None:
    """Pages for the person who has to look. Without them the outcome stays what it is."""
    try:
        steps.report()
    except Exception as error:
        message = f'no report could be written: {type(error).__name__}: {error}'
        say(message)
        folder.log_event('warning', 'report', message)


def _next_task(folder: CampaignFolder, steps: Steps) -> Task | None:
    """The first step that is not done; campaign.json lists all that are known by now."""
    state = steps.state
    tasks = steps.tasks()
    state.steps = {task.id: state.steps.get(task.id, Step()) for task in tasks}
    for task in tasks:
        state.steps[task.id].result = {**task.about, **state.steps[task.id].result}
    folder.write_state(state)
    return next((task for task in tasks if state.steps[task.id].status != 'done'), None)


def _do(folder: CampaignFolder, recipe: Recipe, state: State, task: Task) -> None:
    step = state.steps[task.id]
    again = step.started is not None
    step.status, step.started, step.ended = 'running', step.started or now(), None
    folder.write_state(state)
    say(f'{read_progress(folder, state)}; {task.title}{", again" if again else ""}')
    folder.log_event('step', 'start', task.title, step=task.id)
    began, meter = time.monotonic(), EnergyMeter(gpu_numbers(recipe))
    try:
        with Heartbeat(folder):
            step.result = {**task.about, **task.work()}
        step.status = 'done'
    except BaseException:
        step.status = 'failed'
        raise
    finally:
        step.seconds += time.monotonic() - began
        step.ended = now()
        used_wh = meter.used_wh()
        if used_wh is not None:
            state.energy_wh = (state.energy_wh or 0.0) + used_wh
        with _tolerate_full_disk():
            folder.write_state(state)
    folder.log_event('step', 'end', task.title, step=task.id, values={'seconds': step.seconds})


def ending_of(error: BaseException, folder: CampaignFolder) -> tuple[Outcome, str] | None:
    """Outcome and message of what a person or the machine can cause; None: something else."""
    again = f'Go on with --resume --runs {folder.root.parent} --name {folder.name}.'
    if isinstance(error, CampaignStoppedError):
        return error.outcome, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Outcome.INTERRUPTED, f'interrupted. {again}'
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return Outcome.OUT_OF_DISK, f'no space is left: {cause}. Make room. {again}'
        # torch.OutOfMemoryError, without importing torch for it.
        if isinstance(cause, MemoryError) or type(cause).__name__ == 'OutOfMemoryError':
            return (
                Outcome.OUT_OF_MEMORY,
                f'memory ran out: {_first_line(cause)}. Free the device, or give its stage a '
                f'smaller batch, as stage1.batch=16. {again}',
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')


def _record(folder: CampaignFolder, state: State, outcome: Outcome | None, message: str) -> None:
    """Write how it ended. On a full disk the old state stays, from which --resume goes on too."""
    state.outcome = outcome.label if outcome is not None else None
    state.message, state.ended = message, now()
    kind: EventKind = 'step' if outcome is not None and outcome.finished else 'error'
    values = {} if outcome is not None else {'traceback': traceback.format_exc()}
    with _tolerate_full_disk():
        folder.write_state(state)
        folder.log_event(kind, outcome.label if outcome else 'crash', message, values=values)


@contextlib.contextmanager
def _tolerate_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        say(f'the state could not be written: {error}')


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise Interrupted here; a second one ends the process at once.

    A signal that is ignored, SIGHUP under nohup say, stays so. Processes that were forked off get
    what they had been sent, not an exception.
    """
    owner = os.getpid()
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        for name in before:
            signal.signal(name, signal.SIG_DFL)
        if os.getpid() != owner:
            signal.raise_signal(number)
        raise Interrupted(signal.Signals(number).name)

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:
            before[name] = signal.signal(name, stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def gpu_numbers(recipe: Recipe) -> tuple[int, ...]:
    """GPUs that a recipe uses, as the NVIDIA driver counts them; none on a CPU."""
    device = recipe.device
    if isinstance(device, str):
        return ()
    numbers = (device,) if isinstance(device, int) else device
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    listed = [entry.strip() for entry in visible.split(',')] if visible else []
    if not listed:
        return tuple(numbers)
    if not all(entry.isdigit() for entry in listed) or max(numbers) >= len(listed):
        return ()
    return tuple(int(listed[number]) for number in numbers)


def open_standard_streams() -> None:
    """Give a closed stdin, stdout or stderr to /dev/null: else a file of ours takes its number,
    and children inherit it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))  # noqa: PTH123, SIM115
