"""A large file over HTTP: goes on where it stopped, waits for nobody for ever, knows its length."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cone_perception.errors import DataError
from cone_perception.files import write_json

CONNECT_S = 15.0
SILENCE_S = 60.0
"""So long may the other side say nothing."""
ATTEMPTS = 5
"""In a row without a single new byte."""
BLOCK = 1 << 16
"""Bytes; what has arrived of one is lost when the connection breaks."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """What is known of a file under way, kept beside it.

    length: bytes in all; None: the server did not say. mark: ETag or date of the version that the
    bytes so far are of; empty: none was sent, so nothing can be continued.
    """

    length: int | None
    mark: str


def is_complete(file: Path) -> bool:
    """All bytes that the server announced are there."""
    progress = _read_record(file)
    return progress is not None and file.is_file() and file.stat().st_size == progress.length


def download(find_link: Callable[[], str], file: Path) -> None:
    """Download to `file`, continuing what is there of the same version.

    find_link: called at the start and whenever the link does not hold any more (they expire).

    Raises DataError when there is no space, the server refuses, or nothing arrives any more; what
    has arrived by then stays. Its message may hold the link: redact it.
    """
    import requests

    link, failures = find_link(), 0
    with requests.Session() as session:
        while True:
            before = file.stat().st_size if file.is_file() else 0
            try:
                if _receive(session, link, file):
                    return
                error = 'the connection ended early'
            except requests.HTTPError as refusal:
                status = 0 if refusal.response is None else refusal.response.status_code
                if status not in (401, 403, 404, 408, 410, 429) and status < 500:
                    raise
                error = f'the server answers {status}'
                link = find_link()
            except (requests.ConnectionError, requests.Timeout) as broken:
                error = str(broken)
            except requests.exceptions.ChunkedEncodingError as broken:
                error = str(broken)
            except OSError as full:
                if isinstance(full, requests.RequestException):
                    raise
                raise DataError(f'{file} cannot be written: {full}') from full
            arrived = file.stat().st_size if file.is_file() else 0
            failures = 0 if arrived > before else failures + 1
            if failures == ATTEMPTS:
                raise DataError(
                    f'the download stopped at {arrived / 1e6:.1f} MB: {error}. '
                    'Run the same command again: it goes on from there.'
                )
            time.sleep(min(30, 2**failures / 2))


def _receive(session: Any, link: str, file: Path) -> bool:
    """One request; returns whether the file is whole now."""
    progress = _read_record(file)
    start = file.stat().st_size if progress and progress.mark and file.is_file() else 0
    headers = {'Accept-Encoding': 'identity'}
    if progress and start:
        headers |= {'Range': f'bytes={start}-', 'If-Range': progress.mark}
    with session.get(link, headers=headers, stream=True, timeout=(CONNECT_S, SILENCE_S)) as answer:
        if answer.status_code == 416:  # nothing is left, or it is another file
            file.unlink()
            return False
        answer.raise_for_status()
        if answer.status_code != 206:
            start = 0
        length = answer.headers.get('Content-Length')
        total = start + int(length) if length else None
        mark = answer.headers.get('ETag') or answer.headers.get('Last-Modified') or ''
        write_json(_record(file), Arrived(total, '' if mark.startswith('W/') else mark))
        if total is not None and total - start > shutil.disk_usage(file.parent).free:
            raise OSError(f'{(total - start) / 1e9:.1f} GB are missing, more than is free there')
        with (
            file.open('ab' if start else 'wb') as stream,
            tqdm(total=total, initial=start, unit='B', unit_scale=True, desc='download') as bar,
        ):
            for block in answer.iter_content(BLOCK):
                stream.write(block)
                bar.update(len(block))
    return total is None or file.stat().st_size == total


def _record(file: Path) -> Path:
    return file.with_name(f'{file.name}.json')


def _read_record(file: Path) -> Arrived | None:
    try:
        return Arrived(**json.loads(_record(file).read_text(encoding='utf-8')))
    except (OSError, ValueError, TypeError):
        return None
