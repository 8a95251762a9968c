"""`evaluate --operating-point card`, and `judge`, its old name."""

import json
import re

import cv2
import pytest
from planted_data import painted_row, write_data_yaml, write_split
from tiny_network import CLASS_NAMES, write_tiny_bundle

from training.cli import main

NAMES_REVERSED = CLASS_NAMES[::-1]


@pytest.fixture
def data(tmp_path):
    """Two pictures, class order reversed: a blue cone; a yellow one and one that is not seen."""
    root = tmp_path / 'data'
    picture, label = painted_row([('blue_cone', 640, 168, 64, 64)], NAMES_REVERSED)
    other, seen = painted_row([('yellow_cone', 128, 360, 64, 64)], NAMES_REVERSED)
    _, unseen = painted_row([('yellow_cone', 900, 500, 40, 60)], NAMES_REVERSED)
    write_split(root, 'val', {'a.png': (picture, label), 'b.png': (other, seen + unseen)})
    write_data_yaml(root, NAMES_REVERSED, train='val/images', val='val/images')
    return root


def judge(data, tmp_path, *extra):
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    out = tmp_path / 'figures.json'
    arguments = ['judge', '--model', str(bundle), '--data', str(data), '--split', 'val']
    status = main([*arguments, '--json', str(out), *extra])
    return status, json.loads(out.read_text()) if out.is_file() else None


def test_figures_are_what_the_pictures_say_whatever_the_class_order(data, tmp_path, capsys):
    status, figures = judge(data, tmp_path)
    assert status == 0
    every = figures['figures']
    assert (every['low_px'], every['high_px'], every['truths']) == (0, None, 3)
    assert every['per_class']['blue_cone']['ap50'] == pytest.approx(0.995)
    assert every['per_class']['yellow_cone']['fixed_recall'] == 0.5
    assert every['per_class']['yellow_cone']['fixed_precision'] == 1
    printed = capsys.readouterr()
    assert re.search('four colours: mAP50 .*, all boxes\n', printed.out)
    assert re.search("the card's thresholds, all cones counted alike +[0-9.]+ +0.6667", printed.out)
    assert 'evaluate MODEL --operating-point card' in printed.err


def test_evaluate_at_the_card_tells_the_same(data, tmp_path, capsys):
    _, figures = judge(data, tmp_path)
    judged = capsys.readouterr().out
    arguments = [str(tmp_path / 'bundle'), '--data', str(data), '--split', 'val']
    assert main(['evaluate', *arguments, '--operating-point', 'card', '--json']) == 0
    assert json.loads(capsys.readouterr().out) == figures
    assert main(['evaluate', *arguments, '--operating-point', 'card']) == 0
    assert capsys.readouterr().out == judged


def test_weights_have_no_card_to_take_thresholds_of(data, tmp_path, capsys):
    network = write_tiny_bundle(tmp_path / 'bundle') / 'tiny.onnx'
    arguments = ['evaluate', str(network), '--data', str(data), '--operating-point', 'card']
    assert main(arguments) == 1
    assert 'has no card with thresholds' in capsys.readouterr().err


def test_heights_are_those_at_a_width_of_1280(data, tmp_path):
    half = cv2.imread(str(data / 'val' / 'images' / 'b.png'))
    cv2.imwrite(str(data / 'val' / 'images' / 'b.png'), cv2.resize(half, (640, 360)))
    _, figures = judge(data, tmp_path, '--heights', '62', '65')
    bands = figures['figures']['bands']
    assert [(band['low_px'], band['truths']) for band in bands] == [(0, 1), (62, 2), (65, 0)]


def test_pictures_of_every_suffix_and_folder_are_judged(data, tmp_path):
    images, labels = data / 'val' / 'images', data / 'val' / 'labels'
    _, usual = judge(data, tmp_path)
    cv2.imwrite(str(images / 'b.webp'), cv2.imread(str(images / 'b.png')), [64, 101])
    (images / 'b.png').unlink()
    for folder, name in ((images, 'a.png'), (labels, 'a.txt')):
        (folder / 'deep').mkdir()
        (folder / name).rename(folder / 'deep' / name)
    _, figures = judge(data, tmp_path)
    assert figures['figures'] == usual['figures']


def test_split_lies_where_data_yaml_says(data, tmp_path):
    (data / 'val').rename(data / 'valid')
    write_data_yaml(data, NAMES_REVERSED, train='../valid/images', val='../valid/images')
    _, figures = judge(data, tmp_path)
    assert figures['figures']['truths'] == 3


def test_rows_that_are_there_twice_count_once(data, tmp_path):
    _, usual = judge(data, tmp_path)
    for path in (data / 'val' / 'labels').iterdir():
        path.write_text(path.read_text() * 2)
    _, figures = judge(data, tmp_path)
    assert figures['figures'] == usual['figures']
