"""An engine may drive only if it finds what FP32 finds in the stored pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from held_bundle import hold_to, list_reference, open_cpu
from tiny_network import paint, write_tiny_bundle

from cone_perception.engines import Engine
from cone_perception.engines.check import (
    REFERENCE_FILE,
    check_engine,
    check_plan,
    compare_outputs,
    read_reference,
)
from cone_perception.engines.tensorrt.plans import (
    Compiled,
    PlanKey,
    PlanPlace,
    passport_path,
    read_passport,
)
from cone_perception.errors import ModelError, PlanError
from cone_perception.model_card import Bundle, read_bundle

HEIGHT_PX, WIDTH_PX = 96, 160


def write_reference(folder: Path) -> Bundle:
    """Five painted pictures, and what the network itself puts out for them."""
    pictures = np.full((5, HEIGHT_PX, WIDTH_PX, 3), 114, np.uint8)
    for index, picture in enumerate(pictures):
        paint(picture, 'blue_cone', 32 * index, 0, 32, 32)
        paint(picture, 'yellow_cone', 32 * (4 - index), 64, 32, 32)
    bundle = read_bundle(folder)
    return hold_to(bundle, open_cpu(bundle), pictures)


@pytest.fixture(params=['anchors', 'end_to_end'])
def bundle(request, tmp_path):
    folder = write_tiny_bundle(
        tmp_path / 'tiny', request.param, height_px=HEIGHT_PX, width_px=WIDTH_PX
    )
    return write_reference(folder)


def test_engine_that_answers_the_same_passes(bundle):
    engine = open_cpu(bundle)
    check = check_engine(engine, bundle)
    assert check.passed
    assert (check.pictures, check.boxes, check.missed, check.extra) == (5, 10, 0, 0)
    assert check.mean_iou == pytest.approx(1)
    assert check.score_error_mean == 0


def store_plan(folder: Path) -> Path:
    key = PlanKey('0' * 64, 'int8', 1, 'tensorrt', '10.3', 'GPU', '8.9', '550.54', '12.4')
    place = PlanPlace('tiny', key, folder)
    place.store(Compiled(bytes(100), {}, {}))
    return place.path


def test_check_that_passed_is_kept_in_the_passport(bundle, tmp_path):
    engine, plan = open_cpu(bundle), store_plan(tmp_path / 'cache')
    check = check_plan(engine, bundle, plan)
    assert read_passport(passport_path(plan)).check == check.to_dict()
    engine.close()


def test_pictures_that_do_not_fill_the_last_batch_are_all_compared(tmp_path):
    folder = write_tiny_bundle(tmp_path / 'tiny', batch=2, height_px=HEIGHT_PX, width_px=WIDTH_PX)
    bundle = write_reference(folder)
    check = check_engine(open_cpu(bundle), bundle)
    assert check.passed
    assert check.pictures == 5


def scaled(outputs: np.ndarray, layout: str, factor: float) -> np.ndarray:
    """Outputs with their scores multiplied."""
    outputs = outputs.copy()
    scores = outputs[:, 4:] if layout == 'anchors' else outputs[:, :, 4]
    scores *= factor
    return outputs


class Scaled:
    """The real engine, its scores multiplied: what a wrong scale of quantisation does."""

    def __init__(self, engine: Engine, bundle: Bundle, factor: float) -> None:
        self.info, self.close, self._run = engine.info, engine.close, engine.run
        self._layout, self._factor = bundle.card.output_layout, factor

    def run(self, pictures: np.ndarray) -> np.ndarray:
        return scaled(self._run(pictures), self._layout, self._factor)


@pytest.mark.parametrize(
    'factor, reason',
    [(0.9, 'scores differ by 0.'), (0.3, 'none of the 10 cones'), (0.0, 'none of the 10 cones')],
)
def test_engine_with_other_scores_is_refused_and_that_is_kept(bundle, tmp_path, factor, reason):
    plan = store_plan(tmp_path / 'cache')
    engine = Scaled(open_cpu(bundle), bundle, factor)
    check = check_engine(engine, bundle)
    assert not check.passed
    assert any(reason in text for text in check.reasons)
    with pytest.raises(PlanError, match=r'does not answer as FP32 does: .*may not drive'):
        check_plan(engine, bundle, plan)
    passport = read_passport(passport_path(plan))
    assert passport.check is not None
    assert passport.check['passed'] is False


def test_engine_with_boxes_elsewhere_is_refused(bundle):
    _, expected = read_reference(bundle)
    moved = expected.copy()
    if bundle.card.output_layout == 'anchors':
        moved[:, 0] += 6
    else:
        moved[:, :, [0, 2]] += 6
    check = compare_outputs(moved, expected, bundle.card, 'int8')
    assert [text for text in check.reasons if 'boxes overlap by' in text]
    assert check.missed == 0


def test_cones_that_only_the_engine_has_are_counted(bundle):
    _, expected = read_reference(bundle)
    answers = expected.copy()
    answers[0] = expected[1]
    check = compare_outputs(answers, expected, bundle.card, 'int8')
    assert (check.missed, check.extra) == (2, 2)
    assert len(check.reasons) == 2


def test_answers_that_are_no_numbers_are_refused(bundle):
    _, expected = read_reference(bundle)
    with pytest.raises(ModelError, match='not numbers'):
        compare_outputs(np.full_like(expected, np.nan), expected, bundle.card, 'int8')
    with pytest.raises(ModelError, match='different exports'):
        compare_outputs(expected[:, :, :-1], expected, bundle.card, 'int8')


def test_reference_without_a_cone_proves_nothing(bundle):
    _, expected = read_reference(bundle)
    empty = expected * 0
    check = compare_outputs(empty, empty, bundle.card, 'int8')
    assert check.reasons == ('the reference holds no sure cone, so it proves nothing',)
    assert check.to_dict()['mean_iou'] is None
    json.dumps(check.to_dict(), allow_nan=False)


def test_reference_with_low_scores_is_compared_by_lower_limits(bundle):
    """Scores as of a model of real pictures that is not sure of rendered cones."""
    _, expected = read_reference(bundle)
    low, lower = (scaled(expected, bundle.card.output_layout, each) for each in (0.1, 0.085))
    assert compare_outputs(low, low, bundle.card, 'int8').passed
    assert compare_outputs(low, low, bundle.card, 'int8').boxes == 10
    check = compare_outputs(lower, low, bundle.card, 'int8')
    assert [text for text in check.reasons if 'scores differ by 0.01' in text]


def test_missing_changed_or_broken_reference_is_named(bundle):
    path = bundle.folder / REFERENCE_FILE
    content = path.read_bytes()
    path.write_bytes(content + b'x')
    with pytest.raises(ModelError, match='is not the file that the card lists'):
        read_reference(bundle)
    path.write_bytes(content[:100])
    with pytest.raises(ModelError, match=r'npz cannot be read'):
        read_reference(list_reference(bundle))
    path.unlink()
    with pytest.raises(ModelError, match=r'npz is missing'):
        read_reference(bundle)


def test_reference_of_another_size_is_named(bundle):
    wrong = np.zeros((5, 32, 32, 3), np.uint8)
    np.savez(bundle.folder / REFERENCE_FILE, inputs=wrong, outputs=np.zeros((5, 1)))
    with pytest.raises(ModelError, match=r'holds uint8 pictures \(5, 32, 32, 3\)'):
        read_reference(list_reference(bundle))


@pytest.mark.parametrize('kind', ['empty', 'array', 'texts'])
def test_answers_that_are_none_are_refused(bundle, kind):
    with (bundle.folder / REFERENCE_FILE).open('wb') as file:
        if kind == 'array':
            np.save(file, np.zeros(3))
        elif kind == 'texts':
            np.savez(file, inputs=np.array(['a']), outputs=np.array(['b']))
    with pytest.raises(ModelError, match='cannot be read'):
        read_reference(list_reference(bundle))
