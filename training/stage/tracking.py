"""Weights & Biases beside a training that it can neither stop nor slow.

training -> TrackedRun -> bounded queue -> thread -> pipe -> a process of its own -> wandb

wandb blocks, prompts, hangs at exit, and starts a service that can die: all of it happens in a
process of its own, which is killed when it does not come to an end. What cannot be sent is counted,
and the first failure is told with its reason. This side never imports wandb.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from training.recipe.recipe import Tracking

QUEUE_MESSAGES = 1000
"""Messages that wait for wandb; those that come when so many wait are lost, and counted."""

INIT_S = 60
"""How long wandb may take to reach its server before it goes on offline (WANDB_INIT_TIMEOUT)."""

GRACE_S = 10.0
"""How much longer than its own limit a call of wandb may take before it is cut off."""

FINISH_S = 60.0
"""How long finish() waits for the last upload."""

ORPHAN_S = 20
"""How long the process may take to end when the training is gone, or after the run's end."""

PRIVATE = {'WANDB_ERROR_REPORTING': 'false', 'WANDB_SILENT': 'true', 'PYTHONUNBUFFERED': '1'}
"""Environment of the process: wandb reports its own errors to a host of its makers, offline too."""

START = (
    'import sys; sys.path[:] = filter(None, sys.path); '
    'import training.stage.tracking as t; t.serve()'
)
"""Python's command line of the process: a module in the working directory hides none of wandb's."""

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TrackingEnd:
    """How the tracking of a run went.

    mode: off, offline or online, as it was at the end; off too when wandb did not start.
    sent: messages that wandb took. lost: messages that it did not. warnings: why.
    """

    mode: str
    url: str | None
    sent: int
    lost: int
    warnings: tuple[str, ...]


def open_tracking(
    settings: Tracking,
    campaign: str,
    run: str,
    job_type: str,
    config: Mapping[str, Any],
    folder: Path,
    warn: Warn | None = None,
) -> TrackedRun:
    """Start the W&B run of one step of a campaign; a resumed step goes on in the same run.

    campaign: the W&B group. run: `two-stage/seed0`. job_type: the stage's name. folder: of the
    campaign; all files go below `folder/wandb`. warn: gets each warning once, perhaps from another
    thread (default: to stderr). Never raises: without wandb, a key or a network it warns, and with
    the mode `off` it does nothing.
    """
    tracked = TrackedRun(warn or _print_warning)
    if settings.mode == 'off':
        return tracked
    try:
        tracked._start(settings, campaign, run, job_type, dict(config), folder.resolve())
    except Exception as error:  # whatever it is, the training goes on
        tracked._fail(f'W&B cannot be started, nothing is tracked: {error!r}')
    return tracked


def track_evaluation(
    settings: Tracking,
    campaign: str,
    run: str,
    what: str,
    evaluation: Path,
    folder: Path,
    warn: Warn | None = None,
) -> TrackingEnd:
    """A W&B run with the figures, plots and pictures of an evaluation; `what` is its job_type.

    evaluation: folder that `write_evaluation` wrote. The rest as open_tracking has it.
    """
    tracked = open_tracking(settings, campaign, run, what, {}, folder, warn)
    if settings.mode == 'off':
        return tracked.finish()
    try:
        facts = json.loads((evaluation / 'evaluation.json').read_text(encoding='utf-8'))
        figures = facts['figures']
        overall = {
            'map50': figures['map50'],
            'map50_95': figures['map50_95'],
            **{name: figures['best_f1'][name] for name in ('confidence', 'precision', 'recall')},
            **{f'{name}_fixed': figures['fixed'][name] for name in ('precision', 'recall')},
        }
        known = {f'{what}/{name}': value for name, value in overall.items() if value is not None}
        tracked.log(known, 0)
        classes = figures['per_class']
        columns = list(next(iter(classes.values()), {}))
        rows = [[name, *(entry[column] for column in columns)] for name, entry in classes.items()]
        tracked.log_table(f'{what}/per class', ['class', *columns], rows)
        bands = figures['bands']
        columns = list(bands[0]) if bands else []
        rows = [[band[column] for column in columns] for band in bands]
        tracked.log_table(f'{what}/per box height', columns, rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        tracked._fail(f'{evaluation} is no evaluation that W&B can be told of: {error!r}')
    for path in sorted(evaluation.glob('*.png')) + sorted(evaluation.glob('*.jpg')):
        tracked.log_images(f'{what}/{path.stem}', [path])
    return tracked.finish()


def _print_warning(message: str) -> None:
    print(f'warning: {message}', file=sys.stderr, flush=True)


class TrackedRun:
    """One W&B run. No method raises or waits, but finish(), which has a limit."""

    def __init__(self, warn: Warn) -> None:
        self.url: str | None = None
        self.mode = 'off'
        self.warnings: list[str] = []
        self._given = 0
        self._taken = 0
        self._warn = warn
        self._lock = threading.Lock()
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(QUEUE_MESSAGES)
        self._process: subprocess.Popen[str] | None = None
        self._threads: list[threading.Thread] = []
        self._folder = Path()
        self._end: TrackingEnd | None = None

    @property
    def process_id(self) -> int | None:
        """Of the process that talks to wandb; None: there is none."""
        return self._process.pid if self._process else None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve. step: the epoch."""
        self._put({'do': 'log', 'values': dict(values), 'step': step})

    def log_images(self, name: str, paths: Sequence[Path]) -> None:
        """Picture files, boxes drawn already."""
        self._put({'do': 'images', 'name': name, 'paths': [str(p.resolve()) for p in paths]})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._put({'do': 'table', 'name': name, 'columns': list(columns), 'rows': list(rows)})

    def log_artifact(self, name: str, path: Path) -> None:
        """A file of weights as an artifact of the type `model`."""
        self._put({'do': 'artifact', 'name': name, 'path': str(path.resolve())})

    def finish(self, failed: bool = False, limit_s: float = FINISH_S) -> TrackingEnd:
        """Wait for wandb to end, at most `limit_s` seconds; then end it. Tells what was lost."""
        if self._end is None:
            if self._process is not None:
                self._stop(self._process, failed, limit_s)
            self._end = TrackingEnd(
                self.mode,
                self.url,
                self._taken,
                self._given - self._taken,
                tuple(self.warnings),
            )
        return self._end

    def _put(self, message: dict[str, Any]) -> None:
        if self._process is None or self._end is not None:
            return
        self._given += message['do'] != 'open'
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._fail('W&B does not keep up: messages are dropped.')

    def _fail(self, reason: str) -> None:
        """Tell a reason the first time that it is met."""
        key = os.environ.get('WANDB_API_KEY')
        reason = reason.replace(key, '***') if key else reason
        with self._lock:
            if reason in self.warnings:
                return
            self.warnings.append(reason)
        with contextlib.suppress(Exception):  # a full disk under the log is not the training's end
            self._warn(reason)

    def _start(
        self,
        settings: Tracking,
        campaign: str,
        run: str,
        job_type: str,
        config: dict[str, Any],
        folder: Path,
    ) -> None:
        self._folder = folder / 'wandb'
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f'{run}/{job_type}'
        record = self._folder / f'{re.sub(r"[^A-Za-z0-9.=-]+", "_", name)}.json'
        if not record.is_file():
            _write_record(record, {'id': secrets.token_hex(8), 'name': name, 'url': None})
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get('PYTHONPATH')])]
        with record.with_suffix('.log').open('a', encoding='utf-8') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-c', START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    **PRIVATE,
                    'WANDB_DATA_DIR': str(self._folder / 'data'),
                    'WANDB_CACHE_DIR': str(self._folder / 'cache'),
                    'PYTHONPATH': os.pathsep.join(paths),
                },
                start_new_session=True,  # no terminal to ask at, no Ctrl-C
            )
        self.mode = settings.mode
        self._put(
            {
                'do': 'open',
                'mode': settings.mode,
                'record': str(record),
                'project': settings.project,
                'entity': settings.entity or None,
                'group': campaign,
                'job_type': job_type,
                'config': config,
            }
        )
        for work, stream in ((self._send, self._process.stdin), (self._hear, self._process.stdout)):
            thread = threading.Thread(target=work, args=(stream,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _send(self, pipe: IO[str]) -> None:
        """In a thread: everything that waits, until finish() says that nothing follows."""
        while (message := self._queue.get()) is not None:
            try:
                pipe.write(json.dumps(message, default=_plain) + '\n')
                pipe.flush()
            except OSError:
                self._fail('W&B has ended before the training: what follows is not tracked.')
            except (TypeError, ValueError) as error:
                self._fail(f'W&B cannot be told {message["do"]}: {error}')
        with contextlib.suppress(OSError):
            pipe.close()

    def _hear(self, pipe: IO[str]) -> None:
        """In a thread: what the process says, until it ends."""
        for line in pipe:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # not ours: something printed to the pipe
            match said.get('event'):
                case 'opened':
                    self.mode, self.url = said['mode'], said['url']
                    if self.url:
                        print(f'W&B: {self.url}', flush=True)
                case 'taken':
                    self._taken += 1
                case 'failed':
                    self._fail(said['reason'])

    def _stop(self, process: subprocess.Popen[str], failed: bool, limit_s: float) -> None:
        try:
            with contextlib.suppress(queue.Full):
                self._queue.put({'do': 'finish', 'failed': failed}, timeout=limit_s / 3)
                self._queue.put(None, timeout=limit_s / 3)
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._fail(
                f'W&B did not end within {limit_s:.0f} s and was stopped. What it has not sent '
                f'lies in {self._folder}: send it with `wandb sync`.'
            )
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join(5)
        if process.returncode not in (0, -signal.SIGKILL):
            self._fail(f'W&B ended with status {process.returncode}; see {self._folder}/*.log.')
        if self._given > self._taken:
            self._fail(
                f'W&B: {self._given - self._taken} of {self._given} messages of this run were lost.'
            )


def _plain(value: object) -> object:
    """JSON of what JSON does not know: numpy's numbers, paths."""
    return value.item() if hasattr(value, 'item') else str(value)


def _write_record(path: Path, record: dict[str, Any]) -> None:
    part = path.with_suffix('.part')
    part.write_text(json.dumps(record), encoding='utf-8')
    part.replace(path)


class _Wandb:
    """The other side of the pipe: the only place that touches wandb."""

    def __init__(self, commands: IO[str], events: IO[str]) -> None:
        self._commands = commands
        self._events = events
        self._run: Any = None

    def serve(self) -> None:
        failed = True  # when the training is killed
        for line in self._commands:
            message = json.loads(line)
            if message['do'] == 'finish':
                failed = message['failed']
                break
            if message['do'] == 'open':
                if not self._open(message):
                    return
                continue
            try:
                getattr(self, f'_{message["do"]}')(message)
                self._say('taken')
            except Exception as error:
                self._say('failed', reason=f'W&B fails: {_words(error)}')
        else:
            signal.alarm(ORPHAN_S)
        try:
            self._run.finish(exit_code=int(failed))
        except Exception as error:
            self._say('failed', reason=f'W&B does not end well: {_words(error)}')

    def _open(self, message: dict[str, Any]) -> bool:
        try:
            import wandb
        except ImportError as error:
            self._say(
                'failed',
                reason=f'wandb cannot be imported ({error}), nothing is tracked. Install it with '
                'pip install wandb, or set tracking.mode to off.',
            )
            self._say('opened', mode='off', url=None)
            return False
        record = Path(message['record'])
        known = json.loads(record.read_text(encoding='utf-8'))
        for mode in dict.fromkeys((message['mode'], 'offline')):
            try:
                settings = _settings(wandb, mode)
                with _limit(settings.init_timeout + GRACE_S):
                    self._run = wandb.init(
                        project=message['project'],
                        entity=message['entity'],
                        group=message['group'],
                        job_type=message['job_type'],
                        name=known['name'],
                        config=message['config'],
                        id=known['id'],
                        resume='allow',
                        mode=mode,
                        dir=str(record.parents[1]),
                        allow_val_change=True,
                        settings=settings,
                    )
                # Not wandb's own step: a resumed epoch would be refused because it was there before
                self._run.define_metric('epoch')
                self._run.define_metric('*', step_metric='epoch')
            except Exception as error:
                on = mode == 'online'
                self._say(
                    'failed',
                    reason=f'W&B does not work {mode}: {_words(error)}. '
                    + (
                        f'It goes on offline; send it later: wandb sync {record.parent}/offline-*'
                        if on
                        else 'Nothing is tracked.'
                    ),
                )
                with contextlib.suppress(Exception), _limit(GRACE_S):
                    wandb.teardown()  # the service would say that the run's id is in use
                continue
            url = self._run.url if mode == 'online' else None
            _write_record(record, {**known, 'mode': mode, 'url': url or known['url']})
            self._say('opened', mode=mode, url=url)
            return True
        self._say('opened', mode='off', url=None)
        return False

    def _log(self, message: dict[str, Any]) -> None:
        self._run.log({**message['values'], 'epoch': message['step']})

    def _images(self, message: dict[str, Any]) -> None:
        import wandb

        self._run.log({message['name']: [wandb.Image(path) for path in message['paths']]})

    def _table(self, message: dict[str, Any]) -> None:
        import wandb

        self._run.log({message['name']: wandb.Table(message['columns'], message['rows'])})

    def _artifact(self, message: dict[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(re.sub(r'[^\w.-]+', '_', message['name']), type='model')
        artifact.add_file(message['path'])
        self._run.log_artifact(artifact)

    def _say(self, event: str, **values: object) -> None:
        with contextlib.suppress(OSError):  # the training is gone
            self._events.write(json.dumps({'event': event, **values}) + '\n')
            self._events.flush()


def _settings(wandb: Any, mode: str) -> Any:
    """Settings of wandb; those that an older one does not know are left out."""
    wanted = {
        'console': 'off',
        'silent': True,
        'disable_git': True,
        'disable_code': True,
        'save_code': False,
        'stop_fn': lambda: None,  # a click on the page does not end a training
        'finish_timeout': FINISH_S * 0.8,
        'x_stats_pid': os.getppid(),
        # Measurements of the machine begin with a question to a cloud's metadata host.
        'x_disable_stats': mode == 'offline',
    }
    if mode == 'offline' or 'WANDB_INIT_TIMEOUT' not in os.environ:
        wanted['init_timeout'] = INIT_S
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer: not every wandb keeps its own limit."""

    def stop(*_: object) -> None:
        raise TimeoutError(f'no answer within {seconds:.0f} s')

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _words(error: Exception) -> str:
    """One line: the kind of error and its first words."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300].rstrip(".")}'


def serve() -> None:
    """Take commands from stdin, answer on stdout, as JSON lines; wandb's own words go to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    events = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    _Wandb(sys.stdin, events).serve()
    signal.alarm(ORPHAN_S)  # wandb's hooks at exit may wait for ever
