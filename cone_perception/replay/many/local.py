"""Jobs -> processes on this machine, some at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence

from cone_perception.process import end_with_parent
from cone_perception.replay.many.jobs import JOBS_VARIABLE, BagJob, Keep, outcome_of

STOP_TIMEOUT_S = 30.0
"""After Ctrl-C: for the report of what was seen."""

POLL_S = 0.1


class JobProcess:
    """The process of a job, in a session of its own; it takes a ROS domain that is free."""

    def __init__(self, job: BagJob) -> None:
        self.job = job
        self.started_ns = time.time_ns()
        self._began = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open('wb') as log:
            # Ctrl-C reaches only this process, which ends it in order; if this one is killed, Linux
            # ends it.
            self._process = subprocess.Popen(
                [sys.executable, *job.arguments],
                env=os.environ | {JOBS_VARIABLE: str(job.jobs), 'PYTHONUNBUFFERED': '1'},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    @property
    def seconds(self) -> float:
        """Time since its start."""
        return time.monotonic() - self._began

    def ended(self) -> int | None:
        """Give its status; None while it runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Send it Ctrl-C: it may still write the report of what it saw."""
        self._process.send_signal(signal.SIGINT)

    def end(self, timeout_s: float) -> int:
        """Wait for its status; after the time-out, kill it with all that it started."""
        try:
            return self._process.wait(timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            status = self._process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return status
            raise


def replay_here(jobs: Sequence[BagJob], workers: int, keep: Keep) -> None:
    """Replay bags, `workers` at a time, and tell `keep` each outcome as it comes.

    Ctrl-C ends those that run; they may still write what they saw.
    """
    waiting, running = deque(jobs), list[JobProcess]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(JobProcess(waiting.popleft()))
            for process in list(running):
                status = process.ended()
                if status is not None:
                    running.remove(process)
                    keep(outcome_of(process.job, status, process.seconds, process.started_ns))
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print('interrupted: ending the replays that run', file=sys.stderr, flush=True)
        for process in running:
            process.interrupt()
        for process in running:
            process.end(STOP_TIMEOUT_S)
            keep(process.job.outcome('interrupted', 'ended by Ctrl-C', process.seconds))
    finally:
        for process in running:
            process.end(0)
