"""A known data set from Roboflow: there whole and with its manifest, or not there."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from tqdm import tqdm

from cone_perception.dataset.layout import read_layout
from cone_perception.errors import ConePerceptionError, DataError, InstallError, told_as
from cone_perception.files import LockedError, locked, write_whole
from training.data.manifest import MANIFEST, check_manifest, write_manifest
from training.recipe.sources import SOURCES, RoboflowVersion, parse_counts

SILENCE_S = 60.0
"""So long may the other side say nothing."""
ATTEMPTS = 5
"""In a row without a single new byte."""
BLOCK = 1 << 16
"""Bytes; what has arrived of one is lost when the connection breaks."""


def download(find_link: Callable[[], str], file: Path) -> None:
    """Download to `file`, continuing what FILE.part holds of the same version.

    find_link: called at the start and whenever the link does not hold any more (they expire).
    Raises DataError when there is no space, the server refuses, or nothing arrives any more; what
    has arrived by then stays. Its message may hold the link: redact it.
    """
    import requests

    broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    part = file.with_name(f'{file.name}.part')
    part.touch()
    link, failures = find_link(), 0
    with requests.Session() as session:
        while failures < ATTEMPTS:
            time.sleep(min(30, (2**failures - 1) / 2))
            before = part.stat().st_size
            try:
                if _receive(session, link, part):
                    part.rename(file)
                    return
                error = 'the connection ended early'
            except requests.HTTPError as refusal:
                status = 0 if refusal.response is None else refusal.response.status_code
                if status not in (401, 403, 404, 408, 410, 429) and status < 500:
                    raise
                error = f'the server answers {status}'
                link = find_link()
            except broken as failure:
                error = str(failure)
            except requests.RequestException:
                raise
            except OSError as full:
                raise DataError(f'{file} cannot be written: {full}') from full
            failures = 0 if part.stat().st_size > before else failures + 1
    raise DataError(
        f'the download stopped at {part.stat().st_size / 1e6:.1f} MB: {error}. '
        'Run the same command again: it goes on from there.'
    )


def _receive(session: Any, link: str, part: Path) -> bool:
    """One request; returns whether the file is whole now.

    PART.mark holds the ETag or date of the version that the bytes so far are of; empty: the server
    sent none, so nothing can be continued.
    """
    mark_file = part.with_name(f'{part.name}.mark')
    mark = mark_file.read_text(encoding='utf-8') if mark_file.is_file() else ''
    start = part.stat().st_size if mark else 0
    headers = {'Accept-Encoding': 'identity'}
    if start:
        headers |= {'Range': f'bytes={start}-', 'If-Range': mark}
    with session.get(link, headers=headers, stream=True, timeout=(15.0, SILENCE_S)) as answer:
        if answer.status_code == 416:  # nothing is left, or it is another file
            mark_file.unlink()
            return False
        answer.raise_for_status()
        if answer.status_code != 206:
            start = 0
        length = answer.headers.get('Content-Length')
        total = start + int(length) if length else None
        mark = answer.headers.get('ETag') or answer.headers.get('Last-Modified') or ''
        write_whole(mark_file, '' if mark.startswith('W/') else mark)
        if total is not None and total - start > shutil.disk_usage(part.parent).free:
            raise OSError(f'{(total - start) / 1e9:.1f} GB are missing, more than is free there')
        with (
            part.open('ab' if start else 'wb') as stream,
            tqdm(total=total, initial=start, unit='B', unit_scale=True, desc='download') as bar,
        ):
            for block in answer.iter_content(BLOCK):
                stream.write(block)
                bar.update(len(block))
    return total is None or part.stat().st_size == total


KEY_VARIABLE = 'ROBOFLOW_API_KEY'
ANSWER_S = 60.0
"""Roboflow's client waits for an answer for ever; this is how long it may."""
EXPORT_S = 1800.0
"""Roboflow may have to pack the export first."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that does not show itself, not even in a traceback with local variables."""

    value: str = field(repr=False)

    def redact(self, text: str) -> str:
        """`text` without the key, and without the queries of links, which carry signatures."""
        quoted = quote(self.value), quote_plus(self.value), quote(self.value, '')
        for form in (self.value, *quoted):
            text = text.replace(form, '***')
        return re.sub(r'(?<=[\w/])\?[\w.~%-]+=[^\s\'")<>]*', '?***', text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', choices=SOURCES, help='which data set')
    to = 'folder of data sets (default: datasets)'
    parser.add_argument('--to', type=Path, default=Path('datasets'), help=to)
    expect = 'how many pictures there should be, if not as the strategy says'
    parser.add_argument('--expect', nargs='+', default=[], metavar='SPLIT=PICTURES', help=expect)
    again = 'download although it is there; the old one is kept'
    parser.add_argument('--again', action='store_true', help=again)
    parser.add_argument('--full', action='store_true', help='hash every file if it is there')


def run(args: argparse.Namespace) -> int:
    """Fetch a data set, or say that it is there."""
    source = SOURCES[args.name]
    expected = parse_counts(args.expect) or source.images
    folder = args.to / args.name
    if folder.exists() and not args.again:
        check_present(folder, expected, full=args.full)
    else:
        fetch_dataset(source, folder, expected)
    print(f'{folder} is whole. Next: cone-training data verify {folder}')
    return 0


def check_present(folder: Path, expected: Mapping[str, int], *, full: bool = False) -> None:
    """Check a data set by its manifest, or by its counts without one. Raises DataError."""
    advice = 'Give --again to download it anew; the folder is kept under another name.'
    if (folder / MANIFEST).exists():
        if differences := check_manifest(folder, full=full):
            found = Counter(differences.values())
            raise DataError(
                f'{folder} is not as its manifest says: {found["missing"]} files are missing, '
                f'{found["extra"]} are extra, {found["changed"]} have changed. {advice}'
            )
        return
    try:
        _check_content(folder, expected)
    except DataError as error:
        raise DataError(f'{folder} is there, but partial or another: {error}. {advice}') from None
    print(f'{folder} is there without a manifest; the counts are right, so one is written')
    write_manifest(folder)


def fetch_dataset(source: RoboflowVersion, folder: Path, expected: Mapping[str, int]) -> None:
    """Download a data set into FOLDER, which appears only when everything in it was checked.

    Work is done in FOLDER.part: an interrupted download goes on, an interrupted unpacking starts
    again. A FOLDER that is there is renamed to FOLDER.old-DATE at the very end.
    Raises InstallError without the Roboflow client; DataError for everything else: no key, no
    network, another process at the same work, a damaged archive, a `download:` key in data.yaml,
    or other counts than expected. No message holds the key.
    """
    part = folder.with_name(f'{folder.name}.part')
    archive, content = part / 'roboflow.zip', part / 'content'
    in_use = told_as(DataError, f'another download is running, {part} is in use', LockedError)
    with told_as(DataError, f'{folder} cannot be written'), in_use, locked(part / 'lock'):
        if not archive.exists():
            _download(source, archive)
        _unpack(archive, content)
        _check_content(content, expected)
        write_manifest(content)
        if folder.exists():
            old = folder.with_name(f'{folder.name}.old-{datetime.now():%Y%m%d-%H%M%S}')
            folder.rename(old)
            print(f'what was there before is now {old}')
        os.sync()
        content.rename(folder)
        shutil.rmtree(part)


def _download(source: RoboflowVersion, archive: Path) -> None:
    key = ApiKey(os.environ.get(KEY_VARIABLE, '').strip())
    if not key.value:
        raise DataError(
            f'Roboflow wants a key: set the environment variable {KEY_VARIABLE} to the private key '
            'of your account (Roboflow: Settings, API Keys). It is not stored.'
        )

    def redact(record: logging.LogRecord) -> bool:
        record.msg, record.args = key.redact(record.getMessage()), ()
        return True

    logger = logging.getLogger('urllib3.connectionpool')
    logger.addFilter(redact)
    failure: ConePerceptionError
    try:
        download(lambda: _find_link(source, key), archive)
        return
    except InstallError as error:
        failure = error
    except DataError as error:
        failure = DataError(key.redact(str(error)))
    except Exception as error:  # whatever the client raises may hold the key
        failure = DataError(key.redact(f'the download failed: {type(error).__name__}: {error}'))
    finally:
        logger.removeFilter(redact)
    raise failure  # outside of the handler: no __context__ that holds the key


def _find_link(source: RoboflowVersion, key: ApiKey) -> str:
    """Ask for an archive's link until it is packed. Raises DataError, InstallError: no client."""
    advice = "(pip install 'cone_perception[data]')"
    with told_as(InstallError, 'the Roboflow client is not there', ImportError, advice=advice):
        from roboflow.adapters import rfapi
    place = f'{source.workspace}/{source.project} version {source.version}'
    wanted = (source.workspace, source.project, str(source.version), 'yolov11')
    ask = partial(rfapi.get_version_export, key.value, *wanted)
    deadline, shape = time.monotonic() + EXPORT_S, '{desc} {percentage:.0f}%'
    with tqdm(total=1.0, desc=f'{place}: packing', delay=1, bar_format=shape) as bar:
        while time.monotonic() < deadline:
            answer = _answer_of(ask, key)
            if answer.get('ready') is not False:
                export = answer.get('export')
                if isinstance(export, dict) and 'link' in export:
                    return str(export['link'])
                raise DataError(f'Roboflow names no archive for {place}: {str(answer)[:300]}')
            bar.update(float(answer.get('progress') or 0) - bar.n)
            time.sleep(1)
    raise DataError(f'Roboflow has not packed {place} in {EXPORT_S / 60:.0f} minutes: try later')


def _answer_of(ask: Callable[[], Any], key: ApiKey) -> dict[str, Any]:
    """Return the client's answer, within ANSWER_S: it sets no time limit of its own."""
    answers: list[dict[str, Any] | str] = []

    def work() -> None:
        try:
            answers.append(dict(ask()))
        except Exception as error:
            answers.append(key.redact(f'{type(error).__name__}: {error}'))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(ANSWER_S)
    answer = answers[0] if answers else f'no answer within {ANSWER_S:g} s'
    if isinstance(answer, dict):
        return answer
    raise DataError(
        f'Roboflow cannot be asked: {answer}. Is there a network, and is {KEY_VARIABLE} right?'
    )


def _unpack(archive: Path, content: Path) -> None:
    """Unpack into an empty folder; every file's checksum is compared. A damaged archive goes."""
    shutil.rmtree(content, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            size = sum(member.file_size for member in members)
            if size > shutil.disk_usage(archive.parent).free:
                raise DataError(
                    f'{size / 1e9:.1f} GB are needed at {archive.parent}, which are not free'
                )
            for member in tqdm(members, unit='file', desc='unpack'):
                packed.extract(member, content)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
        archive.unlink()
        raise DataError(
            f'the archive is damaged ({error}) and was removed: run the same command again'
        ) from error


def _check_content(folder: Path, expected: Mapping[str, int]) -> None:
    """Raises DataError when a folder is no data set, is partial, or would be executed."""
    layout = read_layout(folder)
    if fatal := [str(problem) for problem in layout.problems if problem.fatal]:
        raise DataError('; '.join(fatal))
    found = Counter({split: len(pictures) for split, pictures in layout.splits.items()})
    if wrong := [
        f'{split} holds {found[split]} pictures instead of {count}'
        for split, count in expected.items()
        if found[split] != count
    ]:
        raise DataError(
            f'{", ".join(wrong)}. If the source has changed, say so with --expect '
            + ' '.join(f'{split}={count}' for split, count in found.items())
        )
