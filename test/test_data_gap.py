import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from planted_data import CLASSES, write_data_yaml, write_split
from plotly.offline import get_plotlyjs
from tiny_yolo import ARCHITECTURE

from cone_perception.errors import DataError, ModelError
from training.cli import main
from training.data.gap.command import write_gap_page
from training.data.gap.embedding import embed_pictures
from training.data.gap.measure import measure_gap

COLOURS = {0: (200, 80, 20), 2: (20, 120, 240), 4: (20, 210, 230)}


def make_set(root, seed, pictures=100, size=1.0, light=0, blur=0.0, classes=(0, 2, 4), frame=0):
    """Pictures of grey noise with cones as boxes of colour; the settings plant a gap."""
    rng = np.random.default_rng(seed)
    rows = {}
    for index in range(pictures):
        base = rng.normal(110 + rng.normal(0, 12), 25, (45, 80, 3))
        bgr = cv2.resize(np.clip(base, 0, 255).astype(np.uint8), (320, 180))
        lines = []
        for _ in range(rng.integers(3, 9)):
            class_id = int(rng.choice(classes))
            height = rng.uniform(14, 26) * size
            width = height * rng.uniform(0.6, 0.8)
            x, y = rng.uniform(30, 290), rng.uniform(70, 150)
            corners = [int(x - width / 2), int(y - height / 2), int(x + width / 2)]
            colour = (COLOURS[class_id] + rng.normal(0, 15, 3)).clip(0, 255).tolist()
            cv2.rectangle(bgr, corners[:2], (corners[2], int(y + height / 2)), colour, -1)
            wide, tall = 320 + 2 * frame, 180 + 2 * frame
            box = (x + frame) / wide, (y + frame) / tall, width / wide, height / tall
            lines.append(f'{class_id} {" ".join(map(str, box))}\n')
        if blur:
            bgr = cv2.GaussianBlur(bgr, (0, 0), blur)
        bgr = np.clip(bgr.astype(int) + light, 0, 255).astype(np.uint8)
        bgr = cv2.copyMakeBorder(bgr, frame, frame, frame, frame, cv2.BORDER_CONSTANT)
        rows[f'drive_{index:04}.png'] = bgr, ''.join(lines)
    write_split(root, 'train', rows)
    return write_data_yaml(root, CLASSES, train='train/images').parent


@pytest.fixture(scope='session')
def plain(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp('sets') / 'plain', 1)


@pytest.mark.parametrize(
    'name, gap',
    [
        ('brightness', {'light': 60}),
        ('box height', {'size': 0.5}),
        ('frame', {'frame': 40}),
        ('sharpness', {'blur': 2.0}),
    ],
)
def test_planted_gap_is_the_largest_difference(plain, tmp_path, name, gap):
    report = measure_gap(plain, make_set(tmp_path / 'other', 2, **gap))
    first = report.differences[0]
    assert first.name == name
    assert first.distance > 2 * first.within
    assert next(report.sentences()).startswith(name.capitalize())


def test_frame_changes_nothing_but_itself(plain, tmp_path):
    """Brightness and the rest are measured inside of it; positions and sizes move with it."""
    report = measure_gap(plain, make_set(tmp_path / 'other', 2, frame=40))
    changed = {entry.name for entry in report.differences if entry.ratio > 1.5}
    assert not changed & {'brightness', 'contrast', 'saturation', 'sharpness', 'classes'}


def test_two_sets_of_one_kind_show_no_gap(plain, tmp_path):
    report = measure_gap(plain, make_set(tmp_path / 'other', 2))
    assert [entry.name for entry in report.differences if entry.ratio > 1.5] == []
    assert max(entry.distance for entry in report.differences) < 0.3


def test_class_that_one_set_lacks_is_named(plain, tmp_path):
    report = measure_gap(plain, make_set(tmp_path / 'other', 2, classes=(0, 4)))
    (classes,) = [entry for entry in report.differences if entry.name == 'classes']
    assert classes.ratio > 3
    assert any('boxes in plain, none in other' in text for text in report.sentences())


def test_classes_are_compared_by_name_not_by_number(plain, tmp_path):
    other = make_set(tmp_path / 'other', 2)
    write_data_yaml(other, CLASSES[::-1], train='train/images')
    for path in (other / 'train' / 'labels').iterdir():
        lines = [line.split() for line in path.read_text().splitlines()]
        path.write_text(''.join(f'{4 - int(c)} {" ".join(box)}\n' for c, *box in lines))
    report = measure_gap(plain, other)
    assert not [entry for entry in report.differences if entry.ratio > 1.5]


def test_command_writes_page_and_figures(plain, tmp_path, capsys):
    other = make_set(tmp_path / 'other', 2, pictures=40, light=60)
    weights = write_network(tmp_path / 'net.onnx')
    out = tmp_path / 'out'
    arguments = ['data', 'gap', str(plain), str(other), '--out', str(out)]
    assert main([*arguments, '--weights', str(weights), '--pictures', '40']) == 0
    assert 'Brightness: median' in capsys.readouterr().out
    stored = json.loads((out / 'gap.json').read_text())
    assert stored['embedding']['pictures'] == [40, 40]
    assert {'brightness', 'embedding'} <= {
        entry['name'] for entry in stored['differences'] if entry['notable']
    }
    page = (out / 'gap.html').read_text().replace(get_plotlyjs(), '')
    assert page.count('src="data:image/') == 16
    assert 'http://' not in page
    assert 'https://' not in page


def test_embedding_tells_sets_apart_only_when_they_differ(plain, tmp_path):
    weights = write_network(tmp_path / 'net.onnx')
    asked = {'weights': weights, 'pictures': 100}
    alike = measure_gap(plain, make_set(tmp_path / 'alike', 2), **asked)
    apart = measure_gap(plain, make_set(tmp_path / 'apart', 3, light=60), **asked)
    assert 0.35 < alike.embedding.told_apart < 0.65
    assert apart.embedding.told_apart > 0.9
    by_name = {entry.name: entry for entry in apart.differences}
    assert by_name['embedding'].ratio > 3
    assert len({path for paths in apart.embedding.examples.values() for path in paths}) == 16


def test_page_without_embedding_holds_no_picture(plain, tmp_path):
    report = measure_gap(plain, make_set(tmp_path / 'other', 2, pictures=30))
    write_gap_page(tmp_path / 'gap.html', report)
    page = (tmp_path / 'gap.html').read_text().replace(get_plotlyjs(), '')
    assert 'data:image' not in page


def test_weights_of_ultralytics_give_what_their_export_gives(plain, tmp_path):
    pytest.importorskip('torch')
    pytest.importorskip('ultralytics')
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch
    from ultralytics import YOLO

    text = ARCHITECTURE.format(classes=5, end2end=False, width=0.125).replace('[[2]', '[[3]')
    enlarges = 'head:\n  - [-1, 1, nn.Upsample, [None, 2, nearest]]'
    (tmp_path / 'tiny.yaml').write_text(text.replace('head:', enlarges))
    torch.manual_seed(0)
    model = YOLO(str(tmp_path / 'tiny.yaml'))
    model.save(str(tmp_path / 'tiny.pt'))
    shown, onnx = torch.zeros(1, 3, 640, 640), str(tmp_path / 'tiny.onnx')
    torch.onnx.export(model.model.float().eval(), shown, onnx, dynamo=False)
    paths = sorted((plain / 'train' / 'images').iterdir())[:3]
    rows = [embed_pictures(paths, tmp_path / f'tiny{suffix}') for suffix in ('.pt', '.onnx')]
    assert rows[0].shape == (3, 8)
    assert rows[0].std(axis=0).max() > 0
    assert np.allclose(*rows, atol=1e-4)


def test_network_whose_backbone_cannot_be_found_is_refused(plain, tmp_path):
    with pytest.raises(ModelError, match='where its backbone ends is not known'):
        embed_pictures([], write_network(tmp_path / 'net.onnx', enlarges=False))
    with pytest.raises(ModelError, match='does not exist'):
        embed_pictures([], tmp_path / 'missing.pt')
    pytest.importorskip('ultralytics')
    pytest.importorskip('torchvision')
    (tmp_path / 'broken.pt').write_bytes(b'no weights')
    with pytest.raises(ModelError, match='cannot be loaded as Ultralytics weights'):
        embed_pictures([], tmp_path / 'broken.pt')


@pytest.mark.parametrize(
    'file, content, message',
    [
        ('images/drive_0001.png', 'no picture', r'drive_0001\.png: is no readable picture'),
        ('labels/drive_0001.txt', '0 9 9 9 9', r'drive_0001\.txt:1: '),
        ('images/drive_0003.txt', '', r'drive_0003\.txt: is a label beside'),
        ('../data.yaml', 'path: PLAIN\ntrain: train/images\nnames: [a]', 'not clear about'),
    ],
)
def test_what_cannot_be_judged_is_not_measured(plain, tmp_path, file, content, message):
    root = make_set(tmp_path / 'set', 1, pictures=3)
    cv2.imwrite(str(root / 'train/images/drive_0003.png'), np.zeros((9, 9, 3), np.uint8))
    (root / 'train' / file).write_text(content.replace('PLAIN', str(plain)))
    with pytest.raises(DataError, match=message):
        measure_gap(root, root)


def write_network(path: Path, enlarges: bool = True) -> Path:
    """A convolution at random as backbone, and a neck that enlarges what it puts out."""
    onnx = pytest.importorskip('onnx')
    from tiny_network import onnx_model

    node = onnx.helper.make_node
    neck = node('Resize', ['deep', '', 'scales'], ['output'])
    nodes = [
        node('Conv', ['images', 'weights'], ['features'], strides=[16, 16]),
        node('Relu', ['features'], ['deep']),
        neck if enlarges else node('Relu', ['deep'], ['output']),
    ]
    weights = np.random.default_rng(0).normal(0, 0.2, (8, 3, 16, 16)).astype(np.float32)
    constants = {'weights': weights, 'scales': np.array([1, 1, 2, 2], np.float32)}
    shape = [1, 8, 24, 40] if enlarges else [1, 8, 12, 20]
    onnx.save(onnx_model(nodes, constants, [1, 3, 192, 320], shape, opset=17), path)
    return path
