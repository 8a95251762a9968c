"""A campaign from its first step to its verdict: any step may be cut short and done again.

Signals, a full disk, no memory and a closed terminal end it in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from training.campaign import judge
from training.campaign.campaign import Campaign, CampaignStoppedError, is_finished
from training.campaign.steps import Task, check, tasks
from training.judging.verdict import Outcome
from training.recipe.recipe import Recipe
from training.runs.folder import CampaignFolder, EventKind, State, Step, now
from training.runs.machine import EnergyMeter, driver_numbers, read_machine
from training.runs.progress import read_progress, say
from training.stage.guards import lacking


def run_campaign(folder: CampaignFolder, recipe: Recipe, state: State) -> Outcome:
    """Work until the campaign has ended. The caller holds the folder's lock.

    What a person or the machine can cause becomes the outcome; any other error is raised, after it
    was recorded: `--resume` goes on there.
    """
    if is_finished(state):
        say(f'the campaign in {folder.root} is finished: {state.message}')
        return Outcome.of(str(state.outcome))
    state.pid = os.getpid()
    state.outcome, state.ended, state.message = None, None, ''
    state.hardware, state.versions, state.commit = read_machine()
    campaign = Campaign(folder, recipe, state)
    try:
        with raise_on_signals():
            check(campaign)
            folder.write_state(state)
            while (task := _next_task(campaign)) is not None:
                _do(campaign, task)
        decided = campaign.state.result('decide')
        outcome, message = Outcome.of(decided['outcome']), decided['sentence']
    except BaseException as error:
        ending = ending_of(error, folder)
        if ending is None:
            _record(folder, state, None, f'{type(error).__name__}: {error}')
            raise
        outcome, message = ending
    _record(folder, state, outcome, message)
    say(f'{outcome.label}: {message}')
    if outcome in (Outcome.VERIFICATION_FAILED, Outcome.STOPPED_BY_GUARD):
        try:
            judge.write_pages(folder)
        except Exception as error:  # without them the outcome stays what it is
            message = f'no report could be written: {type(error).__name__}: {error}'
            say(message)
            folder.log_event('warning', 'report', message)
    return outcome


def _next_task(campaign: Campaign) -> Task | None:
    """The first step that is not done; campaign.json lists all that are known by now."""
    state, found = campaign.state, list(tasks(campaign))
    state.steps = {task.id: state.steps.get(task.id, Step()) for task in found}
    for task in found:
        state.steps[task.id].result = {**task.about, **state.steps[task.id].result}
    campaign.folder.write_state(state)
    return next((task for task in found if state.steps[task.id].status != 'done'), None)


def _do(campaign: Campaign, task: Task) -> None:
    folder, state = campaign.folder, campaign.state
    step = state.steps[task.id]
    again = step.started is not None
    step.status, step.started, step.ended = 'running', step.started or now(), None
    folder.write_state(state)
    say(f'{read_progress(folder, state)}; {task.title}{", again" if again else ""}')
    folder.log_event('step', 'start', task.title, step=task.id)
    began, meter = time.monotonic(), EnergyMeter(driver_numbers(campaign.recipe.gpus))
    try:
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
        if lacking(error) is None:
            raise
        say(f'the state could not be written: {error}')


def ending_of(error: BaseException, folder: CampaignFolder) -> tuple[Outcome, str] | None:
    """Outcome and message of what a person or the machine can cause; None: something else."""
    again = f'Go on with --resume --runs {folder.root.parent} --name {folder.name}.'
    if isinstance(error, CampaignStoppedError):
        return error.outcome, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Outcome.INTERRUPTED, f'interrupted. {again}'
    cause: BaseException | None = error
    while cause is not None and lacking(cause) is None:
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if isinstance(cause, OSError):
        return Outcome.OUT_OF_DISK, f'no space is left: {cause}. Make room. {again}'
    reason = (str(cause).splitlines() or [type(cause).__name__])[0].rstrip('.')
    return (
        Outcome.OUT_OF_MEMORY,
        f'memory ran out: {reason}. Free the device, or give its stage a smaller batch, as '
        f'stage1.batch=16. {again}',
    )


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """SIGINT, SIGTERM, SIGHUP raise KeyboardInterrupt here; a second one ends the process at once.

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
        raise KeyboardInterrupt(signal.Signals(number).name)

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:
            before[name] = signal.signal(name, stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


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
