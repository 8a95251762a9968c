"""Judging a model: every picture, classes by name, and Ultralytics' own figures from weights."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from planted_data import painted_row, write_data_yaml, write_split
from tiny_network import CLASS_NAMES, write_tiny_bundle
from tiny_yolo import write_architecture

from cone_perception.dataset.layout import SPLITS
from cone_perception.dataset.split import read_split
from cone_perception.errors import DataError, EngineError, ModelError, SettingsError
from cone_perception.files import without_nan
from training.cli import main
from training.judging import evaluate as judging
from training.judging.evaluate_command import read_mapping
from training.judging.evaluation import load_evaluation
from training.judging.metrics import metrics
from training.judging.predictions import ModelOptions, class_mapping

WIDTH, HEIGHT = 640, 384
CONES = {
    'a/1.png': [('blue_cone', 64, 96, 64, 64), ('yellow_cone', 320, 160, 64, 64)],
    'b/1.png': [('yellow_cone', 128, 64, 64, 64), ('orange_cone', 256, 256, 64, 64)],
    'c.png': [],
}
"""Pictures in sub-folders, two of the same name -> cones."""


def write_data(root, names=CLASS_NAMES, spelt=None):
    """Painted pictures with labels in the class order `names`, spelt in data.yaml as `spelt`."""
    rows = {name: painted_row(cones, names, (WIDTH, HEIGHT)) for name, cones in CONES.items()}
    return write_set(root, rows, spelt or names)


def write_set(root, rows, names):
    """All three splits are the same pictures. rows: name -> picture and label."""
    write_split(root, 'test', rows)
    return write_data_yaml(root, names, **dict.fromkeys(SPLITS, 'test/images')).parent


def evaluate(weights, data, split, mapping=None, **options):
    return judging.evaluate(weights, data, split, ModelOptions(**options), mapping)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / 'data')


@pytest.fixture
def bundle(tmp_path):
    """A network with one box a cell of 32 px: a cone of 64 px is four boxes, none of them right."""
    return write_tiny_bundle(tmp_path / 'bundle', height_px=HEIGHT, width_px=WIDTH)


def test_every_picture_is_judged_though_base_names_repeat(data, bundle):
    result = evaluate(bundle, data, 'test')
    assert result.image_names == ('a/1.png', 'b/1.png', 'c.png')
    assert np.bincount(result.truth_image, minlength=3).tolist() == [2, 2, 0]
    assert set(result.detection_image.tolist()) >= {0, 1}


def test_truth_is_in_source_pixels(data, bundle):
    result = evaluate(bundle, data, 'test')
    np.testing.assert_allclose(result.truth_box_px[0], [64, 96, 128, 160], atol=1e-3)
    np.testing.assert_allclose(result.matches.truth_height_px, 128, atol=1e-3)


@pytest.mark.parametrize(
    'names, spelt',
    [
        (CLASS_NAMES[::-1], None),
        (CLASS_NAMES, ['Blue-Cone', 'big_orange_cone', 'orange', 'unknown', 'yellow']),
    ],
)
def test_data_set_with_other_order_or_spelling_gives_the_same_figures(
    tmp_path, data, bundle, names, spelt
):
    usual = evaluate(bundle, data, 'test')
    other = evaluate(bundle, write_data(tmp_path / 'other', names, spelt), 'test')
    assert other.class_names == usual.class_names == CLASS_NAMES
    assert other.truth_class.tolist() == usual.truth_class.tolist()
    assert without_nan(metrics(other)) == without_nan(metrics(usual))


def test_permuted_model_is_mapped_by_name(tmp_path, data, bundle):
    network = bundle / 'tiny.onnx'
    usual = evaluate(network, data, 'test')
    import onnx

    model = onnx.load(network)
    swapped = dict(enumerate(('yellow', *CLASS_NAMES[1:4], 'blue')))
    for entry in model.metadata_props:
        if entry.key == 'names':
            entry.value = repr(swapped)
    onnx.save(model, tmp_path / 'swapped.onnx')
    other = evaluate(tmp_path / 'swapped.onnx', data, 'test')
    assert other.origin.class_mapping == {'yellow': 'yellow_cone', 'blue': 'blue_cone'}
    exchanged = {0: 4, 4: 0}
    assert other.detection_class.tolist() == [
        exchanged.get(c, c) for c in usual.detection_class.tolist()
    ]


def test_class_that_nobody_knows_is_refused_until_it_is_mapped(tmp_path, bundle, capsys):
    names = ['blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'lemon']
    data = write_data(tmp_path / 'lemon', CLASS_NAMES, names)
    with pytest.raises(ModelError, match=r'no class yellow_cone.*--map MODEL=DATA'):
        evaluate(bundle, data, 'test')
    mapped = evaluate(bundle, data, 'test', mapping=read_mapping(['yellow_cone=lemon']))
    assert mapped.class_names[4] == 'lemon'
    assert mapped.origin.class_mapping == {'yellow_cone': 'lemon'}


def test_cones_of_a_class_that_the_model_lacks_are_missed_only_when_said():
    split = SimpleNamespace(class_names=CLASS_NAMES, classes_there=lambda: [0, 4])

    def indices(*entries):
        return class_mapping(('blue_cone', 'grass'), split, read_mapping(entries)).tolist()

    with pytest.raises(ModelError, match='the data set has no class grass'):
        indices()
    with pytest.raises(ModelError, match='the model has no class yellow_cone'):
        indices('grass=')
    assert indices('grass=', '=yellow_cone') == [0, -1]
    assert indices('grass=yellow_cone') == [0, 4]
    with pytest.raises(ModelError, match='--map names yelow_cone, which is not there'):
        indices('grass=yelow_cone')


@pytest.mark.parametrize('model', ['tiny.onnx', 'card.json', 'weights'])
def test_classes_that_do_not_fit_are_refused_before_the_search(
    tmp_path, bundle, weights, monkeypatch, model
):
    names = ['blue_cone', 'large_orange_cone', 'orange_cone', 'unknown_cone', 'lemon']
    data = write_data(tmp_path / 'lemon', CLASS_NAMES, names)

    def search(*_):
        raise AssertionError('searched')

    monkeypatch.setattr('training.judging.evaluate.detect', search)
    monkeypatch.setattr('training.judging.validator.UnhurriedValidator.postprocess', search)
    path = weights if model == 'weights' else bundle / model
    with pytest.raises(ModelError, match='the data set has no class yellow_cone'):
        evaluate(path, data, 'test', imgsz=64, device='cpu')


@pytest.mark.parametrize('entry', ['yellow', '=', 'a=b a=c'])
def test_mapping_that_says_nothing_is_refused(entry):
    with pytest.raises(SettingsError, match='write it as MODEL=DATA'):
        read_mapping(entry.split())


def test_classes_that_the_model_lacks_are_listed_one_by_one():
    assert read_mapping(['=a', '=b', 'x=y', 'z=']) == {'': 'a,b', 'x': 'y', 'z': ''}


@pytest.mark.parametrize(
    'row, said',
    [
        ('0 0.5 0.5 0.1 0.1 0.9', 'c.txt:1'),
        ('9 0.5 0.5 0.1 0.1', 'class 9 does not exist'),
        ('0 0.5 0.5 1.2 0.1', 'outside of the picture'),
        ('blue 0.5 0.5 0.1 0.1', 'no row of numbers'),
    ],
)
def test_label_for_which_ultralytics_would_drop_the_picture_is_refused_by_name(data, row, said):
    (data / 'test' / 'labels' / 'c.txt').write_text(row)
    with pytest.raises(DataError, match=r'none is left out') as refusal:
        read_split(data, 'test')
    assert said in str(refusal.value)
    assert 'c.txt' in str(refusal.value)


def test_picture_that_cannot_be_decoded_is_refused_by_name(data):
    (data / 'test' / 'images' / 'c.png').write_bytes(b'no picture')
    with pytest.raises(DataError, match=r'c\.png'):
        read_split(data, 'test')


def test_truncated_picture_is_judged_and_named(tmp_path, data):
    path = data / 'test' / 'images' / 'd.jpg'
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    cv2.imwrite(str(path), noise)
    path.write_bytes(path.read_bytes()[:-4000])
    split = read_split(data, 'test')
    assert 'd.jpg' in split.names
    assert any('d.jpg' in note and 'judged all the same' in note for note in split.notes)


def test_pictures_that_share_a_label_file_are_refused(data):
    cv2.imwrite(str(data / 'test' / 'images' / 'c.jpg'), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match='share a label file'):
        read_split(data, 'test')


def test_split_that_is_not_there_is_refused_with_those_that_are(data):
    with pytest.raises(DataError, match=r"'holdout', only for: train, val, test"):
        read_split(data, 'holdout')


def test_folder_of_a_split_that_is_missing_is_not_passed_over(data):
    content = yaml.safe_load((data / 'data.yaml').read_text())
    content['test'] = ['test/images', 'more/images']
    (data / 'data.yaml').write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=r'more/images. does not exist'):
        read_split(data, 'test')
    assert len(read_split(data, 'val')) == 3


def test_hash_of_the_split_changes_with_a_label(data):
    before = read_split(data, 'test').sha256
    assert read_split(data, 'test').sha256 == before
    (data / 'test' / 'labels' / 'c.txt').write_text('0 0.5 0.5 0.1 0.1')
    assert read_split(data, 'test').sha256 != before


def test_network_without_a_card_is_judged_as_with_one(data, bundle):
    whole = evaluate(bundle, data, 'test')
    bare = evaluate(bundle / 'tiny.onnx', data, 'test')
    assert without_nan(metrics(bare)) == without_nan(metrics(whole))
    assert bare.origin.layout == whole.origin.layout == 'end_to_end'
    assert bare.origin.imgsz == (HEIGHT, WIDTH)


def test_command_writes_everything_and_prints_json(tmp_path, data, bundle, capsys):
    out = tmp_path / 'out'
    arguments = ['evaluate', str(bundle), '--data', str(data), '--confidence', '0.5']
    assert main([*arguments, '--out', str(out), '--json']) == 0
    printed = json.loads(capsys.readouterr().out)
    loaded = load_evaluation(out)
    assert printed['figures'] == without_nan(metrics(loaded, confidence=0.5))
    written = [f'evaluation.{kind}' for kind in ('html', 'json', 'npz')]
    assert sorted(path.name for path in out.iterdir()) == written
    page = (out / 'evaluation.html').read_text()
    for said in ('AP50', 'missed (red)', 'found as', 'aria-label="precision over recall"'):
        assert said in page
    assert '<rect class="missed"' in page
    assert '<rect class="false"' in page
    assert main(arguments) == 0
    assert 'height at 1280 px' in capsys.readouterr().out


def test_weights_that_are_not_there_are_named(data, capsys):
    assert main(['evaluate', 'nowhere.pt', '--data', str(data)]) == 1
    assert 'nowhere.pt does not exist' in capsys.readouterr().err


# --- weights, through Ultralytics --------------------------------------------------------------


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A network of random weights, with both heads, whose scores are spread over 0..1."""
    return write_weights(tmp_path_factory.mktemp('weights') / 'tiny.pt', end2end=True)


def write_weights(path, end2end):
    torch = pytest.importorskip('torch')
    pytest.importorskip('ultralytics')
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(write_architecture(path.parent, end2end=end2end), task='detect')
    head = model.model.model[-1]
    for branch in (head.cv3, getattr(head, 'one2one_cv3', None)):
        for level in branch or ():
            torch.nn.init.normal_(level[-1].weight, std=1000.0)
            torch.nn.init.constant_(level[-1].bias, -2.0)
    for branch in (head.cv2, getattr(head, 'one2one_cv2', None)):
        for level in branch or ():
            torch.nn.init.constant_(level[-1].bias, 1.5)
    model.model.names = dict(enumerate(CLASS_NAMES))
    model.save(path)
    return path


@pytest.fixture(scope='module')
def noise(tmp_path_factory, weights):
    """Noise of several shapes; the cones are what the network finds there, moved a little."""
    root = tmp_path_factory.mktemp('noise')
    rng = np.random.default_rng(3)
    sizes = [(96, 128), (128, 96), (72, 128), (96, 96), (60, 150), (96, 128)]
    rows = {}
    for index, (height, width) in enumerate(sizes):
        coarse = rng.integers(0, 255, (height // 6, width // 6, 3)).astype(np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
        rows[f'{index}.png'] = picture, '0 0.5 0.5 0.1 0.1'
    write_set(root, rows, CLASS_NAMES)
    found = evaluate(weights, root, 'test', imgsz=64, device='cpu')
    for index, name in enumerate(found.image_names[:-1]):
        own = np.flatnonzero(found.detection_image == index)
        own = own[rng.random(len(own)) < 0.2][:40]
        box = found.detection_box_px[own] + rng.normal(0, 0.7, (len(own), 4))
        size = found.image_size_px[index]
        centre, extent = (box[:, :2] + box[:, 2:]) / 2 / size, (box[:, 2:] - box[:, :2]) / size
        classes = np.where(rng.random(len(own)) < 0.8, found.detection_class[own], 3)
        rows = np.column_stack([classes, np.clip(centre, 0, 1), np.clip(extent, 0.01, 1)])
        label = root / 'test' / 'labels' / f'{Path(name).stem}.txt'
        label.write_text('\n'.join(f'{int(r[0])} {" ".join(map(str, r[1:]))}' for r in rows))
    (root / 'test' / 'labels' / '5.txt').unlink()
    return root


@pytest.mark.parametrize('layout', ['anchors', 'end_to_end'])
def test_figures_of_weights_are_those_of_ultralytics(tmp_path, weights, noise, layout, monkeypatch):
    # Ultralytics' own validation forgets pictures when the machine is busy, see UnhurriedValidator.
    monkeypatch.setattr('ultralytics.utils.nms.time', SimpleNamespace(time=lambda: 0.0))
    before = sorted(noise.rglob('*'))
    judged = evaluate(weights, noise, 'test', imgsz=64, device='cpu', layout=layout)
    assert sorted(noise.rglob('*')) == before
    ours = metrics(judged)
    theirs = ultralytics_val(weights, noise, tmp_path, nms=None if layout == 'anchors' else False)
    assert 0.05 < ours.map50 < 0.95
    overall = (ours.best_f1.precision, ours.best_f1.recall, ours.map50, ours.map50_95)
    assert overall == pytest.approx(theirs.box.mean_results(), abs=1e-6)
    for row, c in enumerate(theirs.box.ap_class_index):
        each = ours.per_class[CLASS_NAMES[c]]
        own = (each.precision, each.recall, each.ap50, each.ap50_95)
        assert own == pytest.approx(theirs.box.class_result(row), abs=1e-6)
    assert judged.origin.layout == layout


def ultralytics_val(weights, data, folder, nms):
    from ultralytics import YOLO

    content = yaml.safe_load((data / 'data.yaml').read_text()) | {'path': str(data)}
    (folder / 'data.yaml').write_text(yaml.safe_dump(content))
    result = YOLO(weights).val(
        data=str(folder / 'data.yaml'),
        split='test',
        imgsz=64,
        device='cpu',
        plots=False,
        nms=nms,
        project=str(folder),
        name='val',
    )
    (data / 'test' / 'labels.cache').unlink()
    return result


class Evil:
    def __reduce__(self):
        return os.system, (f'touch {self.mark}',)


def test_weights_run_nothing_and_are_for_detection(weights, noise, tmp_path):
    import torch
    from ultralytics import YOLO

    Evil.mark = tmp_path / 'ran'
    torch.save({'model': Evil(), 'train_args': {}}, tmp_path / 'evil.pt')
    (tmp_path / 'far.pt').write_text('version https://git-lfs.github.com/spec/v1\n')
    other = YOLO(weights)
    other.model.task = 'segment'
    other.save(tmp_path / 'other.pt')
    told = {'evil': '--trust', 'far': 'git lfs pull', 'other': 'weights for segment'}
    for name, message in told.items():
        with pytest.raises(ModelError, match=message):
            evaluate(tmp_path / f'{name}.pt', noise, 'test', imgsz=64, device='cpu')
    assert not (tmp_path / 'ran').exists()


def test_busy_machine_loses_no_detections(weights, noise, monkeypatch):
    usual = evaluate(weights, noise, 'test', imgsz=64, device='cpu')
    hours = count(step=3600.0)
    monkeypatch.setattr('ultralytics.utils.nms.time', SimpleNamespace(time=lambda: next(hours)))
    busy = evaluate(weights, noise, 'test', imgsz=64, device='cpu')
    assert busy.detection_score.tolist() == usual.detection_score.tolist()


def test_weights_and_bundle_give_the_same_form_of_figures(weights, noise, bundle):
    of_weights = without_nan(metrics(evaluate(weights, noise, 'test', imgsz=64, device='cpu')))
    of_bundle = without_nan(metrics(evaluate(bundle, noise, 'test')))
    assert set(of_weights) == set(of_bundle)
    assert set(of_weights['per_class']) == set(of_bundle['per_class']) == set(CLASS_NAMES)


def test_own_head_is_refused_of_weights_that_have_none(tmp_path, data):
    plain = write_weights(tmp_path / 'plain.pt', end2end=False)
    with pytest.raises(ModelError, match=r'no end-to-end head.*--layout anchors'):
        evaluate(plain, data, 'test', imgsz=64, device='cpu', layout='end_to_end')


def test_weights_that_are_cut_off_are_refused_by_name(tmp_path, data, weights):
    cut = tmp_path / 'cut.pt'
    cut.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r'cut\.pt cannot be loaded'):
        evaluate(cut, data, 'test', imgsz=64, device='cpu')


def test_device_that_is_not_there_is_refused(data, weights):
    with pytest.raises(EngineError, match=r'no device 77 here.*--device cpu'):
        evaluate(weights, data, 'test', imgsz=64, device='77')


def test_full_gpu_is_a_clear_end(data, weights, monkeypatch):
    torch = pytest.importorskip('torch')

    def fill(*args, **kwargs):
        raise torch.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr('training.judging.validator.UnhurriedValidator.postprocess', fill)
    with pytest.raises(EngineError, match='no memory left'):
        evaluate(weights, data, 'test', imgsz=64, device='cpu')
