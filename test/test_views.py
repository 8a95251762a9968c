from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import cv2
import numpy as np
import pytest
from seeing_engine import SeeingEngine, seeing_card
from tiny_network import BGR_OF_CLASS, CLASS_NAMES

from cone_perception.accuracy.matching import box_iou
from cone_perception.errors import EngineError
from cone_perception.filters import Filters
from cone_perception.pipeline import ConeDetector
from cone_perception.preprocess import PAD_VALUE, View, band_views, tile_views, whole_view
from cone_perception.types import Detections, Float32, Frame, Views
from cone_perception.views import (
    Horizon,
    far_row,
    merge,
    mounted_row,
    views_of,
)
from training.simulate.camera import PinholeCamera

NETWORK = (384, 640)
HD = (720, 1280)
EVERY: Views = 'whole+horizon+strip'
SIZES = [
    (1, 1), (1, 4000), (4000, 1), (2, 3), (90, 160), HD, (1280, 720), (333, 777), (3000, 4096),
    (248, 1024), (4096, 3000), (4000, 2250), (384, 640), (376, 672), (1080, 1920), (1000, 4096),
]  # fmt: skip
ROWS = [-500.0, 0.0, 0.5, 1.0, 9.0]


def every_view(height: int, width: int, row: float) -> list[View]:
    return views_of(height, width, NETWORK, EVERY, row * height)


@pytest.mark.parametrize('height, width', SIZES)
def test_views_lie_in_the_source_and_fill_the_network_picture_evenly(height, width):
    picture = np.full((height, width, 3), 7, np.uint8)
    for view in (view for row in ROWS for view in every_view(height, width, row)):
        out = np.zeros((*NETWORK, 3), np.uint8)
        view.apply(picture, out)
        shown = np.zeros(NETWORK, bool)
        for patch in view.patches:
            source, place = patch.source, patch.place
            assert 0 <= source.left < source.right <= width
            assert 0 <= source.top < source.bottom <= height
            assert not shown[place.top : place.bottom, place.left : place.right].any()
            shown[place.top : place.bottom, place.left : place.right] = True
            wide, tall = place.width / source.width, place.height / source.height
            # Even, as far as whole pixels can be.
            assert abs(wide - tall) * min(source.width, source.height) <= 1
        assert (out[shown] == 7).all()
        assert (out[~shown] == PAD_VALUE).all()
        assert shown.any()


def test_number_of_network_pictures_is_bounded():
    for (height, width), row in product(SIZES, ROWS):
        names = [view.name for view in every_view(height, width, row)]
        assert names[0] == 'whole'
        assert names.count('tile') <= 4
        assert names.count('horizon') <= 1
        assert names.count('strip') in (0, 2)
        assert 'horizon' in names or 'strip' not in names or width < 640


@pytest.mark.parametrize(
    'height, width, tiles', [(720, 1280, 0), (1080, 1440, 0), (1707, 1280, 2), (4000, 2250, 3),
                             (248, 1024, 0), (1000, 4096, 3), (853, 640, 2), (300, 200, 0)],
)  # fmt: skip
def test_only_pictures_of_other_shapes_get_tiles_and_none_is_magnified(height, width, tiles):
    found = tile_views(height, width, NETWORK)
    assert len(found) == tiles
    (whole,) = whole_view(height, width, NETWORK).patches
    for view in found:
        assert whole.scale * 1.5 < view.patches[0].scale <= 1


def test_band_is_native_and_strip_twice_that():
    (band,) = band_views('horizon', *HD, NETWORK, 396)
    strip = band_views('strip', *HD, NETWORK, 396)
    for view, scale, rows in [(band, 0.976, 196), (strip[0], 1.86, 103), (strip[1], 1.86, 103)]:
        for patch in view.patches:
            assert patch.scale == pytest.approx(scale, abs=0.01)
            assert patch.source.height == rows
            assert abs((patch.source.top + patch.source.bottom) / 2 - 396) <= 1


# --- boxes of several views ---


def boxes(*rows: tuple[float, ...], class_id: int = 0) -> Detections:
    """Rows: left, top, right, bottom, score."""
    values = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4], np.full(len(values), class_id, np.int64))


def shown_by(view: View, in_source: Detections) -> Detections:
    """The boxes in the network picture of a view: in the first patch that holds their middle."""
    moved = []
    for box in in_source.xyxy_px:
        x, y = (box[:2] + box[2:]) / 2
        for patch in view.patches:
            source, place = patch.source, patch.place
            if source.left <= x < source.right and source.top <= y < source.bottom:
                offset = np.array([source.left, source.top] * 2, np.float32)
                moved.append((box - offset) * patch.scale + np.array(place[:2] * 2))
                break
        else:
            raise AssertionError(f'{box} is not in {view}')
    xyxy = np.array(moved, np.float32).reshape(-1, 4)
    return Detections(xyxy, in_source.score, in_source.class_id)


WHOLE = whole_view(*HD, NETWORK)
BAND = band_views('horizon', *HD, NETWORK, 360)[0]


def merged(whole: Detections, band: Detections) -> Detections:
    return merge([(WHOLE, shown_by(WHOLE, whole)), (BAND, shown_by(BAND, band))])


def test_far_cone_is_taken_from_the_finer_view_and_a_middle_one_by_its_score():
    far, middle = (100, 350, 110, 364), (300, 340, 330, 380)
    found = merged(
        boxes((*far, 0.75), (*middle, 0.8)),
        boxes((101, 350, 110, 364, 0.6), (301, 340, 330, 380, 0.7)),
    )
    np.testing.assert_allclose(found.xyxy_px, [middle, (101, 350, 110, 364)], atol=0.2)
    np.testing.assert_allclose(found.score, [0.8, 0.6])


def test_far_cone_that_only_the_whole_view_is_sure_of_stays():
    far = (100, 350, 110, 364)
    found = merged(boxes((*far, 0.9)), boxes((101, 350, 110, 364, 0.1)))
    np.testing.assert_allclose(found.xyxy_px, [far], atol=0.2)
    np.testing.assert_allclose(found.score, [0.9])


def test_near_cone_is_the_whole_view_s():
    near = (300, 320, 340, 400)
    assert len(merged(boxes(), boxes((*near, 0.9)))) == 0
    found = merged(boxes((*near, 0.5)), boxes((305, 322, 340, 400, 0.9)))
    np.testing.assert_allclose(found.xyxy_px, [near], atol=0.5)


def test_views_that_see_two_classes_in_one_place_give_one_cone():
    far = (100, 350, 110, 364)
    found = merged(boxes((*far, 0.75)), boxes((*far, 0.6), class_id=4))
    assert found.class_id.tolist() == [4]


@pytest.mark.parametrize(
    'other_class, moved_px, cones', [(0, 3, 1), (0, 6, 2), (4, 2, 1), (4, 3, 2)]
)
def test_boxes_of_two_views_are_one_cone_where_they_overlap_enough(other_class, moved_px, cones):
    """Boxes 10 px wide: moved by 2, 3 and 6 px they overlap by 0.67, 0.54 and 0.25."""
    there = boxes((100 + moved_px, 350, 110 + moved_px, 364, 0.6), class_id=other_class)
    assert len(merged(boxes((100, 350, 110, 364, 0.7)), there)) == cones


@pytest.mark.parametrize('band_least, chosen', [(0.65, 0.5), (0.55, 0.6)])
def test_box_that_counts_gives_way_only_to_one_that_counts(band_least, chosen):
    """A far cone: its box of the band is the finer one, and has the better score."""
    whole, band = (boxes((100, 350, 110, 364, score)) for score in (0.5, 0.6))
    looks = [(WHOLE, shown_by(WHOLE, whole)), (BAND, shown_by(BAND, band))]
    least = (np.full(1, value, np.float32) for value in (0.3, band_least))
    found = merge([(v, replace(f, least=own)) for (v, f), own in zip(looks, least, strict=True)])
    assert found.score.tolist() == pytest.approx([chosen])
    assert found.counts.tolist() == [True]


def test_scores_of_every_class_stay_with_their_box():
    far, near, other = (
        (100, 350, 110, 364, 0.5),
        (50, 300, 120, 420, 0.9),
        (700, 340, 710, 355, 0.7),
    )
    rows = (np.float32([[0.9, 0.1], [0.5, 0.4]]), np.float32([[0.6, 0.3], [0.7, 0.2]]))
    in_view = boxes(near, far), boxes((*far[:4], 0.6), other)
    looks = [
        (view, replace(shown_by(view, found), class_score=score))
        for view, found, score in zip((WHOLE, BAND), in_view, rows, strict=True)
    ]
    found = merge(looks)
    assert found.class_score is not None
    np.testing.assert_array_equal(
        found.class_score, np.float32([[0.9, 0.1], [0.7, 0.2], [0.6, 0.3]])
    )
    assert merge(looks)[found.score < 0.65].class_score.tolist() == found.class_score[2:].tolist()


def test_box_that_was_replaced_replaces_none():
    """Three boxes in a row, each over the next: the first takes the second, the third stays."""
    strip = band_views('strip', *HD, NETWORK, 360)[0]
    row = [boxes((100 + 3 * n, 350, 110 + 3 * n, 364, 0.6)) for n in range(3)]
    views = [WHOLE, BAND, strip]
    looks = [(view, shown_by(view, box)) for view, box in zip(views, row, strict=True)]
    found = merge(looks)
    assert sorted(found.xyxy_px[:, 0].round().tolist()) == [100, 106]


def test_cones_close_together_are_not_merged_within_a_view():
    pair = [(100, 350, 114, 370, 0.9), (103, 351, 117, 371, 0.8)]
    assert len(merged(boxes(*pair), boxes())) == 2
    assert len(merged(boxes(), boxes(*pair))) == 2
    assert len(merged(boxes((101, 350, 115, 370, 0.9)), boxes(*pair))) == 2


def test_three_hundred_cones_are_three_hundred():
    places = [(20 * column, 290 + 20 * row) for row, column in product(range(5), range(60))]
    cones = boxes(*((x, y, x + 8, y + 12, 0.9) for x, y in places))
    found = merged(cones, cones)
    assert len(found) == 300
    assert len(np.unique(found.xyxy_px.round(), axis=0)) == 300


def seen_by(view: View, cones: Float32, random: np.random.Generator) -> Detections:
    """A network that finds, within 0.2 px, what is 3 px high, and cut cones as what is left."""
    found = []
    for patch in view.patches:
        source, place = patch.source, patch.place
        cut = np.clip(cones, (source.left, source.top) * 2, (source.right, source.bottom) * 2)
        sides, whole = cut[:, 2:] - cut[:, :2], cones[:, 2:] - cones[:, :2]
        enough = sides.prod(axis=1) > 0.3 * whole.prod(axis=1)
        shown = (cut[enough] - source[:2] * 2) * patch.scale + place[:2] * 2
        found.append(shown[shown[:, 3] - shown[:, 1] >= 3])
    network = np.concatenate(found)
    network = (network + random.normal(0, 0.2, network.shape)).astype(np.float32)
    score = random.uniform(0.3, 0.95, len(network)).astype(np.float32)
    return Detections(network, score, np.zeros(len(network), np.int64))


@pytest.mark.parametrize('height, width', [HD, (248, 1024), (1707, 1280), (333, 777), (3000, 4096)])
def test_each_cone_is_found_once_wherever_it_and_the_band_lie(height, width):
    """Cones of 3 to 18 % of the height that do not overlap, in scenes made by chance."""
    random = np.random.default_rng(0)
    places = np.array([*product(range(5), range(8))]) / (5, 8)
    for _ in range(60):
        corner = (places + random.uniform(0, 0.01, places.shape))[:, ::-1] * (width, height)
        tall = height * np.exp(random.uniform(np.log(0.03), np.log(0.18), len(places)))
        wide = np.minimum(0.7 * tall, 0.11 * width)
        cones = np.column_stack([corner, corner + np.column_stack([wide, tall])])
        views = every_view(height, width, random.uniform(-0.2, 1.2))
        looks = [(view, seen_by(view, cones, random)) for view in views]
        found = merge(looks).xyxy_px
        overlap = box_iou(found, cones.astype(np.float32)).max(axis=1)
        of = box_iou(found, cones.astype(np.float32)).argmax(axis=1)[overlap > 0.3]
        assert len(np.unique(of)) == len(of)
        by_whole = looks[0][0].to_source(looks[0][1])[0][1]
        alone = box_iou(by_whole.xyxy_px, cones.astype(np.float32)).argmax(axis=1)
        assert set(alone) <= set(of)


def test_far_row_is_the_small_boxes_middle_else_the_upper_sides():
    near = [(0, 300, 50, 400, 0.9), (0, 310, 50, 450, 0.9)]
    assert far_row(boxes(), 0.5) is None
    assert far_row(boxes(*near), 0.5) == 305
    assert far_row(boxes(*near, (0, 340, 8, 352, 0.9)), 0.5) == 346


def test_horizon_follows_slowly_and_keeps_what_it_knows():
    horizon = Horizon()
    assert horizon.row_px(720) is None
    horizon.follow(None, 720)
    assert horizon.row_px(720) is None
    assert Horizon(start=0.25).row_px(720) == 180
    for row_px in [300] * 8 + [700] * 3:
        horizon.follow(row_px, 720)
    assert horizon.row_px(1440) == pytest.approx(600)
    for _ in range(15):
        horizon.follow(320, 720)
    assert horizon.row_px(720) == pytest.approx(320)
    fixed = Horizon(fixed=0.4)
    fixed.follow(600, 720)
    assert fixed.row_px(720) == pytest.approx(288)


@pytest.mark.parametrize('height', [376, 720, 735, 1080])
def test_band_that_is_laid_again_by_its_stored_row_is_the_same(height):
    """A stored row becomes a share of the height, and a row again."""
    for top in np.arange(0, height - 20, 0.37):
        row = far_row(boxes((0, top, 8, top + 12, 0.9)), 0.5)
        assert row == pytest.approx(top + 6, abs=0.006)
        assert Horizon(fixed=row / height).row_px(height) == row


def test_mounting_counts_more_than_boxes_and_these_more_than_the_start():
    horizon = Horizon(start=0.5)
    assert (Horizon().band, horizon.band) == ((None, 'first look'), (0.5, 'start'))
    horizon.follow(288, 720)
    assert horizon.band == (0.4, 'boxes')
    horizon.fixed = 0.3
    assert (horizon.band, horizon.seen) == ((0.3, 'mounting'), 0.4)


@pytest.mark.parametrize('height_m, pitch_deg', [(0.95, 4.0), (1.2, -3.0), (0.4, 0.0)])
def test_mounted_row_is_where_the_renderer_shows_a_far_cone(height_m, pitch_deg):
    camera = PinholeCamera(
        *(1280, 720, 700.0, 690.0, 640.0, 371.0),
        position_m=(0.0, 0.0, height_m),
        pitch_rad=np.radians(pitch_deg),
    )
    row = mounted_row(690.0, 371.0, height_m, pitch_deg)
    for distance_m, tolerance_px in ((20.0, 1e-6), (12.0, 40), (40.0, 40)):
        _, y, z = camera.to_optical([distance_m, 0.0, 0.325 / 2])
        assert row == pytest.approx(371.0 + 690.0 * y / z, abs=tolerance_px)


# --- the detector ---


def painted(*cones: tuple[str, int, int, int, int], size: Sequence[int] = HD) -> Frame:
    """cones: class, left, top, width, height in source pixels."""
    bgr = np.full((*size, 3), PAD_VALUE, np.uint8)
    for name, left, top, width, height in cones:
        corner = (left + width - 1, top + height - 1)
        cv2.rectangle(bgr, (left, top), corner, BGR_OF_CLASS[name], -1)
    return Frame(bgr)


def found_in(frame: Frame, views: Views, row: float | None = None) -> dict[tuple[int, ...], str]:
    """Box, rounded, -> class of what a detector finds."""
    horizons = [] if row is None else [Horizon(fixed=row)]
    with ConeDetector(seeing_card(views), SeeingEngine()) as detector:
        (found,), _ = detector.detect([frame], Filters(), horizons)
    names = [CLASS_NAMES[class_id] for class_id in found.class_id]
    return dict(zip(map(tuple, found.xyxy_px.round().astype(int).tolist()), names, strict=True))


FAR = ('yellow_cone', 900, 350, 6, 8)  # 4 px in the whole view
NEAR = ('blue_cone', 200, 400, 60, 100)


def test_second_look_finds_what_the_first_cannot_and_loses_nothing():
    frame = painted(FAR, NEAR)
    assert set(found_in(frame, 'whole').values()) == {'blue_cone'}
    assert sorted(found_in(frame, 'whole+horizon').values()) == ['blue_cone', 'yellow_cone']


@pytest.mark.parametrize('row', [-3.0, 0.0, 0.2, 0.9, 1.0, 5.0])
def test_a_wrong_band_never_costs_what_the_whole_picture_finds(row):
    frame = painted(NEAR, ('orange_cone', 640, 380, 20, 30), ('yellow_cone', 700, 20, 20, 30))
    alone = found_in(frame, 'whole')
    assert len(alone) == 3
    assert sorted(found_in(frame, EVERY, row).values()) == sorted(alone.values())


BAND_TOP = BAND.patches[0].source.top
SEAM = BAND.patches[1].source.left  # the left end of the columns that both halves show


@pytest.mark.parametrize(
    'cone',
    [
        ('blue_cone', SEAM + 2, 350, 28, 40),  # within the shared columns
        ('blue_cone', SEAM - 20, 350, 50, 62),  # cut by both halves
        ('blue_cone', 500, BAND_TOP - 15, 20, 30),  # on the upper border
        ('blue_cone', 500, BAND_TOP - 80, 200, 360),  # larger than the band
        ('blue_cone', 0, 350, 20, 30),  # at the picture's own edge, which cuts nothing
    ],
)
def test_cone_at_a_seam_or_border_is_found_once_and_whole(cone):
    _, left, top, width, height = cone
    found = found_in(painted(cone), EVERY, 0.5)
    assert len(found) == 1
    np.testing.assert_allclose(next(iter(found)), (left, top, left + width, top + height), atol=2.1)


def test_portrait_picture_is_not_shrunk_to_nothing():
    cone = ('yellow_cone', 600, 1200, 12, 16)
    frame = painted(cone, ('blue_cone', 300, 200, 60, 100), size=(1707, 1280))
    assert set(found_in(frame, 'whole').values()) == {'blue_cone'}
    assert set(found_in(frame, 'whole+horizon', 0.1).values()) == {'blue_cone', 'yellow_cone'}


def test_still_is_looked_at_twice_in_sequence_and_a_known_band_at_once():
    frame = painted(FAR, ('yellow_cone', 300, 345, 9, 14))
    engine = SeeingEngine()
    with ConeDetector(seeing_card(), engine) as detector:
        (still,), _ = detector.detect([frame], Filters())
        assert still.band_px == pytest.approx(352, abs=1)
        assert len(still) == 2
        assert engine.seen == 2
        horizon = Horizon()
        for _ in range(3):
            detector.detect([frame], Filters(), [horizon])
        assert horizon.row_px(720) == pytest.approx(353, abs=2)
        (nothing,), _ = detector.detect([painted()], Filters())
        assert nothing.band_px == 360  # the middle
        assert horizon.row_px(720) == pytest.approx(353, abs=2)


@pytest.mark.parametrize('at_once, batch', [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize('views', ['whole', 'whole+horizon', EVERY])
def test_same_boxes_one_after_the_other_side_by_side_and_in_a_batch(views, at_once, batch):
    frames = [painted(FAR, NEAR), painted(('orange_cone', 20, 310, 8, 9), size=(1080, 1920))]
    with ConeDetector(seeing_card(views), SeeingEngine()) as plain:
        expected = [plain.detect([f], Filters(), [Horizon(fixed=0.5)])[0][0] for f in frames]
    with ConeDetector(seeing_card(views), SeeingEngine(batch, at_once)) as detector:
        detector.warm_up()
        groups = [frames] if batch == 2 else [[frame] for frame in frames]
        found = []
        for group in groups:
            bands = [Horizon(fixed=0.5) for _ in group]
            found += detector.detect(group, Filters(), bands)[0]
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got.xyxy_px, want.xyxy_px)
        np.testing.assert_array_equal(got.class_id, want.class_id)


def test_filters_hold_for_every_view():
    frame = painted(FAR, NEAR)
    with ConeDetector(seeing_card(), SeeingEngine()) as detector:
        for filters, left in [
            (Filters(min_height_px=20), ['blue_cone']),
            (Filters(max_height_px=20), ['yellow_cone']),
            (Filters(region=(0, 0, 0.5, 0, 0.5, 1, 0, 1)), ['blue_cone']),
            (Filters(classes=('yellow_cone',)), ['yellow_cone']),
            (Filters(thresholds={'yellow_cone': 0.95}), ['blue_cone']),
        ]:
            (found,), _ = detector.detect([frame], filters, [Horizon(fixed=0.5)])
            assert [CLASS_NAMES[c] for c in found.class_id] == left


@pytest.mark.parametrize('view_of_own_car', [(), (0, 0, 1, 0, 1, 0.8, 0, 0.8)])
def test_band_does_not_follow_what_the_region_leaves_out(view_of_own_car):
    """Red switches on the steering wheel, and a cone that is too far for the first look."""
    switches = [('orange_cone', 600 + 20 * n, 650, 10, 12) for n in range(3)]
    frame, horizon = painted(FAR, ('yellow_cone', 300, 345, 9, 14), *switches), Horizon()
    filters = Filters(region=view_of_own_car)
    with ConeDetector(seeing_card(), SeeingEngine()) as detector:
        for horizons in ([], [horizon], [horizon]):
            (found,), _ = detector.detect([frame], filters, horizons)
            names = [CLASS_NAMES[class_id] for class_id in found.class_id]
            assert names.count('yellow_cone') == (2 if view_of_own_car else 1)
    assert horizon.row_px(720) == pytest.approx(353 if view_of_own_car else 656, abs=2)


@pytest.mark.parametrize('at_once', [1, 2])
@pytest.mark.parametrize('failing', [1, 2, 3, 4])
def test_look_that_fails_fails_its_frame_and_no_other(at_once, failing):
    """Four looks a frame: whole picture, band, two parts of the strip."""
    engine, runs, ended = SeeingEngine(1, at_once), itertools.count(1), []
    run = engine.run

    def fail_once(pictures):
        number = next(runs)
        if number == failing:
            raise EngineError('out of memory')
        time.sleep(0.02)
        ended.append(number)
        return run(pictures)

    engine.run = fail_once
    with ConeDetector(seeing_card(EVERY), engine) as detector:
        with pytest.raises(EngineError, match='out of memory'):
            detector.detect([painted(FAR, NEAR)], Filters(), [Horizon(fixed=0.5)])
        assert next(runs) == len(ended) + 2  # no look goes on with the pictures of that frame
        for _ in range(2 * at_once):  # none of the network's inputs is lost
            (found,), _ = detector.detect([painted(FAR, NEAR)], Filters(), [Horizon(fixed=0.5)])
            assert len(found) == 2


def test_every_nth_frame_gets_the_second_look_and_says_so():
    horizon = Horizon(start=0.5, every=3)
    with ConeDetector(seeing_card('whole+horizon'), SeeingEngine()) as detector:
        found = [
            detector.detect([painted(FAR, NEAR)], Filters(), [horizon])[0][0] for _ in range(5)
        ]
    assert [len(each) for each in found] == [2, 1, 1, 2, 1]
    assert [each.band_px is None for each in found] == [False, True, True, False, True]
    # Only the second look counts for where the next one lies.
    assert found[3].band_px == pytest.approx(354, abs=1)
