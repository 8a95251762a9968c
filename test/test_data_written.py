"""A data set that we write reads back equal, whatever its classes are called; seeded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_network import write_tiny_bundle

from cone_perception.classes import check_class_names
from cone_perception.dataset.labels import label_text, read_labels
from cone_perception.dataset.layout import read_layout, write_data_yaml
from cone_perception.model_card import read_bundle

SIGNS = [*'abc :#-?,[]{}&*!|>%@`"\'=~.0123<\\/ÄéÖ中', 'null', 'yes', '1e3', '.inf', ': ', ' #']


@pytest.mark.parametrize('seed', range(50))
def test_names_and_boxes_read_back_equal(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    drawn = (''.join(random.choice(SIGNS, random.integers(1, 6))) for _ in range(9))
    names = tuple(dict.fromkeys(name for name in drawn if name.strip()))
    (tmp_path / 'train' / 'images').mkdir(parents=True)
    layout = read_layout(write_data_yaml(tmp_path, ['train'], names))
    assert layout.names == names
    rows = random.random((int(random.integers(1, 9)), 5)).astype(np.float32)
    rows[:, 0] = random.integers(0, len(names), len(rows))
    (tmp_path / 'label.txt').write_text(label_text(rows, exact=True))
    labels = read_labels(tmp_path / 'label.txt', len(names))
    np.testing.assert_array_equal(labels.rows, rows)
    assert labels.faults == ()


@pytest.mark.parametrize('name', ['', ' ', 'a\nb', 'a\x85b', 'a\u2028b', 'a\x1b[31m', '\udce9'])
def test_name_that_lists_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match='no name of a class'):
        check_class_names([name])
    card = read_bundle(write_tiny_bundle(tmp_path / 'tiny')).card
    with pytest.raises(ValueError, match='no name of a class'):
        replace(card, class_names=(*card.class_names[1:], name), thresholds={})
    if name.isascii():
        path = tmp_path / 'data.yaml'
        path.write_text(f'names: [blue, "{name.encode("unicode_escape").decode()}"]\n')
        assert any('no name of a class' in str(each) for each in read_layout(path).problems)
