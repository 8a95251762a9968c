"""Bags that are bombs, have odd paths, or hold what no recorder writes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from recorded_drive import at, cut_off, image, write

from cone_perception.bags import bounded
from cone_perception.bags.reader import open_bag, read_messages
from cone_perception.bags.report import inspect_bag
from cone_perception.errors import SourceError

TOPIC = '/camera/image'


def make(path: Path, storage: str, count: int = 5, compression: str | None = None) -> Path:
    messages = [(TOPIC, at(index), image(at(index))) for index in range(count)]
    words = {'compression': compression} if compression else {}
    bag: Path = write(path, messages, None, storage, **words)
    return bag


def change(bag: Path, statement: str) -> None:
    (file,) = bag.glob('*.db3')
    with closing(sqlite3.connect(file)) as database, database:
        database.executescript(statement)


@pytest.mark.parametrize(
    ('mode', 'share'), [('FILE', 1), ('MESSAGE', 1), ('STORAGE', 1), ('STORAGE', 0.9)]
)
def test_what_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, share: float
) -> None:
    bag = cut_off(make(tmp_path / 'bag', 'mcap', 20, mode), share)
    monkeypatch.setattr(bounded, 'MOST_BYTES', 1000)
    monkeypatch.setattr(bounded, 'FILE_BYTES', 1000)
    monkeypatch.setattr(bounded, 'FILE_RATIO', 0)
    with pytest.raises(SourceError, match='unpacks to more'), open_bag(bag) as reader:
        list(read_messages(reader, [TOPIC]))


@pytest.mark.parametrize('name', ['lap%41', 'lap#2', 'lap?immutable=0'])
def test_path_with_signs_of_an_address_reads_this_bag(tmp_path: Path, name: str) -> None:
    make(tmp_path / 'lapA', 'sqlite3', 3)
    make(tmp_path / 'bag', 'sqlite3', 8).rename(tmp_path / name)
    assert inspect_bag(tmp_path / name).count == 8


def test_message_without_bytes_is_damaged_by_itself(tmp_path: Path) -> None:
    bag = make(tmp_path / 'bag', 'sqlite3')
    change(
        bag,
        'CREATE TABLE taken AS SELECT * FROM messages; DROP TABLE messages; '
        'ALTER TABLE taken RENAME TO messages; UPDATE messages SET data = NULL WHERE id = 2',
    )
    with open_bag(bag) as reader:
        lengths = [len(message.data) for message in read_messages(reader, [TOPIC])]
    assert (len(lengths), lengths[1], min(lengths[2:]) > 0) == (5, 0, True)


def test_view_that_never_ends_is_refused(tmp_path: Path) -> None:
    bag = make(tmp_path / 'bag', 'sqlite3')
    change(
        bag,
        'DROP TABLE messages; CREATE VIEW messages AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL '
        'SELECT x + 1 FROM c) SELECT x AS id, 1 AS topic_id, x AS timestamp, NULL AS data FROM c',
    )
    with pytest.raises(SourceError, match='view'), open_bag(bag):
        pass
