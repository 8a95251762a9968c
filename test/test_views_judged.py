"""Judging and export with views: the boxes of `detect`, and what the card says of its views."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_data import write_data_yaml, write_split

pytest.importorskip('onnx')
pytest.importorskip('openvino')

from cone_perception.dataset.labels import label_rows, label_text
from cone_perception.dataset.split import read_split
from cone_perception.engines.open import open_engine
from cone_perception.errors import SourceError
from cone_perception.filters import Filters
from cone_perception.images import read_picture
from cone_perception.model_card import Bundle, ModelCard, read_bundle, shipped_bundle
from cone_perception.pipeline import ConeDetector
from cone_perception.preprocess import View, band_views, whole_view
from cone_perception.types import Detections, Frame
from cone_perception.views import Horizon, merge
from training.cli import main
from training.export import export, gate
from training.export.thresholds import SeenSplit, choose_for_bands
from training.judging.evaluate import assemble, detect
from training.judging.predictions import Found, Predictions
from training.recipe.recipe import GateLimits
from training.simulate.dataset import write_dataset
from training.simulate.scene import SimulateSettings

CLASS_NAMES = read_bundle().card.class_names


@pytest.fixture(scope='module')
def rendered(tmp_path_factory) -> Path:
    """Three rendered pictures, 1280 x 720."""
    settings = replace(SimulateSettings(), vary_aspect=False)
    folder = tmp_path_factory.mktemp('rendered')
    write_dataset(folder, settings, 3, {'train': 1, 'val': 1, 'test': 3})
    return folder


@pytest.fixture
def card() -> ModelCard:
    """The shipped card with other thresholds in the band."""
    sure = dict.fromkeys(CLASS_NAMES, 0.6)
    shipped = read_bundle().card
    return replace(shipped, views='whole+horizon', view_thresholds={'horizon': sure})


def assert_same(found: Detections, expected: Detections) -> None:
    assert len(found) == len(expected) > 3
    np.testing.assert_array_equal(found.xyxy_px, expected.xyxy_px)
    np.testing.assert_array_equal(found.class_id, expected.class_id)


def test_judged_boxes_are_those_of_detect_at_the_thresholds_of_each_view(rendered, card):
    split = read_split(rendered, 'test')
    judged = detect(card, open_engine(read_bundle()), split, 640)
    assert judged.views == 'whole+horizon'
    rows_px = [cones.band_px for cones in judged.cones]
    moved_px = [row_px + 40 for row_px in rows_px]
    moved = detect(card, open_engine(read_bundle()), split, 640, rows_px=moved_px)
    assert [cones.band_px for cones in moved.cones] == moved_px
    least = Filters().thresholds_by_view(card)
    judged, moved = judged.at(least), moved.at(least)
    with ConeDetector(card, open_engine(read_bundle())) as detector:
        for index, path in enumerate(split.paths):
            frame = Frame(read_picture(path))
            (seen,), _ = detector.detect([frame], Filters())
            assert_same(judged.cones[index], seen)
            horizon = Horizon(fixed=moved_px[index] / frame.height_px)
            (seen,), _ = detector.detect([frame], Filters(), [horizon])
            assert_same(moved.cones[index], seen)


def test_gate_lays_the_bands_of_fp32_for_every_network(rendered, card, monkeypatch):
    bundle = Bundle(read_bundle().folder, card)
    split = read_split(rendered, 'test')
    asked = []

    def remember(card, engine, split, size, rows_px):
        found = detect(card, engine, split, size, rows_px=rows_px)
        asked.append((list(rows_px), [cones.band_px for cones in found.cones]))
        return found

    monkeypatch.setattr(gate, 'detect', remember)
    reference = gate.evaluate_network(bundle, bundle.network('fp16', 'float'), split)
    limits = GateLimits()
    result = gate.judge_bundle(
        bundle, split, limits, resamples=100, reference=reference, bfloat16=False
    )
    (start, bands), *others = asked
    assert start == []
    assert None not in bands
    assert len(others) == len(result.networks) > 1
    assert all(pair == (bands, bands) for pair in others)
    assert result.views == 'whole+horizon'
    entry = result.card_entry((1, 1))
    assert replace(card, gate=entry).verdict == ('passed' if result.passed else 'FAILED')
    other_views = replace(card, gate=entry, views='whole')
    assert other_views.verdict == 'not judged'
    assert not other_views.passed_gate(bundle.network('int8', 'uint8'))


def test_command_says_which_views_and_finds_more_with_the_band(rendered, tmp_path, capsys):
    recall = {}
    for views in ('whole', 'whole+horizon'):
        words = ['evaluate', str(shipped_bundle()), '--data', str(rendered), '--views', views]
        words += ['--operating-point', 'card', '--heights', '24', '--out', str(tmp_path / views)]
        assert main([*words, '--json']) == 0
        found = json.loads(capsys.readouterr().out)
        assert found['origin']['views'] == views
        assert f'views {views}' in (tmp_path / views / 'evaluation.html').read_text()
        recall[views] = found['figures']['bands'][0]['alike']['recall']
    assert recall['whole+horizon'] > recall['whole']


def test_weights_see_whole_pictures_only(rendered, tmp_path, capsys):
    weights = tmp_path / 'best.pt'
    weights.touch()
    words = ['evaluate', str(weights), '--data', str(rendered), '--views', 'whole+horizon']
    assert main(words) == 1
    assert 'on whole pictures only. Export them' in capsys.readouterr().err


def seen_in(view: View, *boxes: tuple[float, float, float]) -> Detections:
    """Blue boxes of 10x20 source pixels in a view's first patch: (left, top, score)."""
    patch = view.patches[0]
    corners = [[x, y, x + 10, y + 20] for x, y, _ in boxes]
    source = np.array(corners, np.float32).reshape(-1, 4) - (patch.source[:2] * 2)
    network = (source * patch.scale + patch.place[:2] * 2).astype(np.float32)
    score = np.array([score for *_, score in boxes], np.float32)
    return Detections(network, score, np.zeros(len(boxes), np.int64))


@pytest.mark.parametrize(('false_score', 'chosen'), [(0.6, 0.62), (0.3, 0.5)])
def test_band_has_the_least_threshold_that_is_as_precise(tmp_path, false_score, chosen):
    """Far cones of scores 0.8 and 0.55 in the band, and one box where no cone is."""
    corners = [[100, 300, 110, 320], [200, 300, 210, 320], [300, 300, 310, 320]]
    label = label_text(label_rows([0] * 3, corners, 1280, 720), exact=True)
    write_split(tmp_path, 'val', [(np.zeros((720, 1280, 3), np.uint8), label)])
    write_data_yaml(tmp_path, CLASS_NAMES, train='val/images', val='val/images')
    whole = whole_view(720, 1280, (384, 640))
    (band,) = band_views('horizon', 720, 1280, (384, 640), 310)
    far = (200, 300, 0.8), (300, 300, 0.55), (400, 300, false_score)
    looks = [(whole, seen_in(whole, (100, 300, 0.9))), (band, seen_in(band, *far))]
    found = Predictions(
        CLASS_NAMES,
        (Found(replace(merge(looks), band_px=310)),),
        '',
        (384, 640),
        'anchors',
        '',
        'fp32',
        views='whole+horizon',
        looks=(looks,),
    )
    half = dict.fromkeys(CLASS_NAMES, 0.5)
    card = replace(read_bundle().card, views='whole+horizon', thresholds=half, view_thresholds={})
    watched = SeenSplit(tmp_path, read_split(tmp_path, 'val'), found)
    least = Filters().thresholds_by_view(card)
    assert [cones.band_px for cones in found.at(least).cones] == [310]
    assert [cones.band_px for cones in found.at({'whole': least['whole']}).cones] == [None]
    stored = assemble(tmp_path, watched.split, found.at(least), {})
    assert stored.band_px.tolist() == [310]
    thresholds = choose_for_bands(card, [watched])
    assert thresholds == {'horizon': dict.fromkeys(CLASS_NAMES, chosen)}
    precision, recall, _ = watched.counted(replace(card, view_thresholds=thresholds))
    assert precision == 1
    assert recall == pytest.approx(2 / 3 if false_score > 0.5 else 1)


def test_thresholds_command_prints_what_export_reads(rendered, capsys):
    words = ['thresholds', '--model', str(shipped_bundle()), '--data', str(rendered)]
    assert main([*words, '--split', 'test', '--views', 'whole+horizon']) == 0
    printed = capsys.readouterr().out.split()
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    args = parser.parse_args(['best.pt', *printed])
    whole = export._thresholds(args.threshold, CLASS_NAMES)
    bands = export._view_thresholds(args.view_threshold, CLASS_NAMES)
    assert args.views == 'whole+horizon'
    assert set(bands) == {'horizon'}
    assert all(bands['horizon'][name] >= least for name, least in whole.items())


def test_thresholds_of_a_view_are_read_for_the_card():
    entries = ['horizon:blue_cone=0.55', 'tile:blue_cone=0.3', 'strip:yellow_cone=0.6']
    assert export._view_thresholds(entries, CLASS_NAMES) == {
        'horizon': {'blue_cone': 0.55},
        'tile': {'blue_cone': 0.3},
        'strip': {'yellow_cone': 0.6},
    }


@pytest.mark.parametrize(
    ('entry', 'said'),
    [
        ('whole:blue_cone=0.5', "'whole' is no view"),
        ('blue_cone=0.5', 'VIEW:CLASS=SCORE'),
        ('horizon:grass=0.5', "no class 'grass'"),
        ('horizon:blue_cone=half', 'no CLASS=SCORE'),
    ],
)
def test_threshold_of_a_view_that_says_nothing_is_refused(entry, said):
    with pytest.raises(SourceError, match=said):
        export._view_thresholds([entry], CLASS_NAMES)
