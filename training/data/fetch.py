"""A known data set from Roboflow: there whole and with its manifest, or not there."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import threading
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cone_perception.dataset.layout import read_layout
from cone_perception.errors import ConePerceptionError, DataError, InstallError
from cone_perception.files import LockedError, locked
from training.data.download import download, is_complete
from training.data.manifest import MANIFEST, check_manifest, write_manifest
from training.recipe.sources import SOURCES, RoboflowVersion, parse_counts

KEY_VARIABLE = 'ROBOFLOW_API_KEY'
EXPORT_FORMAT = 'yolov11'
"""What the strategy downloads: YOLO text files and data.yaml."""
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
        for form in {self.value, *(quote(self.value) for quote in _QUOTES)} - {''}:
            text = text.replace(form, '***')
        return re.sub(r'(?<=[\w/])\?[\w.~%-]+=[^\s\'")<>]*', '?***', text)


_QUOTES = (urllib.parse.quote, urllib.parse.quote_plus, lambda text: urllib.parse.quote(text, ''))


class _Redaction(logging.Filter):
    """Takes the key out of what a library logs."""

    def __init__(self, key: ApiKey) -> None:
        super().__init__()
        self.key = key

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.key.redact(record.getMessage()), ()
        return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', choices=SOURCES, help='which data set')
    parser.add_argument(
        '--to', type=Path, default=Path('datasets'), help='folder of data sets (default: datasets)'
    )
    parser.add_argument(
        '--expect',
        nargs='+',
        default=[],
        metavar='SPLIT=PICTURES',
        help='how many pictures there should be, if not as the strategy says',
    )
    parser.add_argument(
        '--again', action='store_true', help='download although it is there; the old one is kept'
    )
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
    """Check a data set that is there: against its manifest, or by its counts if it has none yet.

    Raises DataError when something is missing or changed.
    """
    advice = 'Give --again to download it anew; the folder is kept under another name.'
    if (folder / MANIFEST).exists():
        check = check_manifest(folder, full=full)
        if not check.ok:
            raise DataError(
                f'{folder} is not as its manifest says: {len(check.missing)} files are missing, '
                f'{len(check.extra)} are extra, {len(check.changed)} have changed. {advice}'
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
    try:
        with locked(part / 'lock'):
            if not is_complete(archive):
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
    except LockedError:
        raise DataError(f'{part} is in use: another download is running') from None
    except OSError as error:
        raise DataError(f'{folder} cannot be written: {error}') from error


def _download(source: RoboflowVersion, archive: Path) -> None:
    key = ApiKey(os.environ.get(KEY_VARIABLE, '').strip())
    if not key.value:
        raise DataError(
            f'Roboflow wants a key: set the environment variable {KEY_VARIABLE} to the private key '
            'of your account (Roboflow: Settings, API Keys). It is not stored.'
        )
    redaction = _Redaction(key)
    logger = logging.getLogger('urllib3.connectionpool')
    logger.addFilter(redaction)
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
        logger.removeFilter(redaction)
    raise failure  # outside of the handler: no __context__ that holds the key


def _find_link(source: RoboflowVersion, key: ApiKey) -> str:
    """Ask Roboflow for the archive of a version, waiting while it is being packed.

    Raises InstallError without the client, DataError when there is no link to be had.
    """
    try:
        from roboflow.adapters import rfapi
    except ModuleNotFoundError as error:
        raise InstallError(
            f"the Roboflow client is not there ({error.name}): pip install 'cone_perception[data]'"
        ) from None
    place = f'{source.workspace}/{source.project} version {source.version}'
    deadline = time.monotonic() + EXPORT_S
    with tqdm(
        total=1.0, desc=f'{place}: packing', delay=1, bar_format='{desc} {percentage:.0f}%'
    ) as bar:
        while time.monotonic() < deadline:
            answer = _answer_of(
                lambda: rfapi.get_version_export(
                    key.value,
                    source.workspace,
                    source.project,
                    str(source.version),
                    EXPORT_FORMAT,
                ),
                key,
            )
            if answer.get('ready') is not False:
                try:
                    return str(answer['export']['link'])
                except (KeyError, TypeError):
                    raise DataError(
                        f'Roboflow names no archive for {place}: {str(answer)[:300]}'
                    ) from None
            bar.update(float(answer.get('progress') or 0) - bar.n)
            time.sleep(1)
    raise DataError(f'Roboflow has not packed {place} in {EXPORT_S / 60:.0f} minutes: try later')


def _answer_of(ask: Callable[[], Any], key: ApiKey) -> dict[str, Any]:
    """What the client returns, within ANSWER_S: it sets no time limit of its own."""
    answers: list[dict[str, Any]] = []
    failures: list[str] = []

    def work() -> None:
        try:
            answers.append(dict(ask()))
        except Exception as error:
            failures.append(key.redact(f'{type(error).__name__}: {error}'))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(ANSWER_S)
    if answers:
        return answers[0]
    reason = failures[0] if failures else f'no answer within {ANSWER_S:g} s'
    raise DataError(
        f'Roboflow cannot be asked: {reason}. Is there a network, and is {KEY_VARIABLE} right?'
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
    fatal = [problem for problem in layout.problems if problem.fatal]
    if fatal:
        raise DataError('; '.join(map(str, fatal)))
    found = {split: len(pictures) for split, pictures in layout.splits.items()}
    wrong = [
        f'{split} holds {found.get(split, 0)} pictures instead of {count}'
        for split, count in expected.items()
        if found.get(split, 0) != count
    ]
    if wrong:
        raise DataError(
            f'{", ".join(wrong)}. If the source has changed, say so with --expect '
            + ' '.join(f'{split}={count}' for split, count in found.items())
        )
