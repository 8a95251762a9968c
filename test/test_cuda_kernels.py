"""The kernels' arithmetic: the same .cu files compiled by g++, against OpenCV and decode.py."""

from __future__ import annotations

import subprocess

import cv2
import numpy as np
import pytest
from kernels_on_cpu import CLASSES, Kernels, compile_check, compile_kernels

from cone_perception.engines.cuda.request import (
    ANSWER,
    BOX,
    CANDIDATE_BYTES,
    FORMATS,
    MAX_BATCH,
    MAX_CANDIDATES,
    MAX_CLASSES,
    MAX_KEPT,
    MAX_PATCHES,
    PICTURE,
    REQUEST,
    CameraJob,
    guess_layout,
    read_answer,
    upload_bytes,
    write_upload,
)
from cone_perception.engines.decode import decode
from cone_perception.errors import ImageError, ModelError
from cone_perception.images import to_bgr
from cone_perception.preprocess import letterbox, whole_view
from cone_perception.types import CameraPicture, Detections, Float32, UInt8
from cone_perception.views import first_views, views_around, views_of

HEIGHT, WIDTH = 96, 160
ENCODINGS = tuple(FORMATS)
BYTES = {'bgra8': 4, 'rgba8': 4, 'mono8': 1, **dict.fromkeys(('yuv422', 'uyvy'), 2)}
BYTES |= dict.fromkeys(('yuv422_yuy2', 'yuyv'), 2)


@pytest.fixture(scope='module', params=['float', 'half'])
def kernels(request, tmp_path_factory):
    half = request.param == 'half'
    return Kernels(compile_kernels(tmp_path_factory.mktemp('kernels'), half), half)


@pytest.fixture
def random():
    return np.random.default_rng(7)


def noise(random: np.random.Generator, height: int, width: int, channels: int) -> UInt8:
    """Half soft, half hard: what a camera shows, and what a blend is most sensitive to."""
    small = random.integers(0, 256, (max(1, height // 8), max(1, width // 8), channels), np.uint8)
    soft = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = soft.reshape(height, width, channels).copy()
    hard = picture[:, width // 2 :]
    hard[:] = random.integers(0, 256, hard.shape, np.uint8)
    return picture


def camera_picture(
    random: np.random.Generator, encoding: str, height: int, width: int, padding: int = 0
) -> CameraPicture:
    channels = BYTES.get(encoding, 3)
    rows = noise(random, height, width, channels).reshape(height, width * channels)
    padded = random.integers(0, 256, (height, width * channels + padding), np.uint8)
    padded[:, : width * channels] = rows
    return CameraPicture(padded.reshape(-1), encoding, width, height, padded.shape[1])


def on_cpu(picture: CameraPicture, height: int, width: int) -> UInt8:
    """(height, width, 3): what the CPU's engine would be given."""
    return letterbox(to_bgr(picture), height, width)


def grey_levels(network: Float32) -> Float32:
    """(H, W, 3) BGR levels of one picture's planes, (3, H, W) RGB 0..1."""
    levels: Float32 = network[::-1].transpose(1, 2, 0) * 255
    return levels


def assert_within_one_level(network: Float32, expected: UInt8) -> None:
    difference = np.abs(grey_levels(network) - expected.astype(np.float32))
    assert difference.max() < 1.1  # the half of a level near 255 is 0.06 off
    assert (difference > 0.5).mean() < 0.15  # OpenCV blends with 11 bits, the kernel with 24


def test_structs_are_those_of_the_kernels(kernels):
    sizes = [kernels.library.sizes(which) for which in range(10)]
    picture, request, box, answer = (each.itemsize for each in (PICTURE, REQUEST, BOX, ANSWER))
    assert sizes[:5] == [picture, request, CANDIDATE_BYTES, box, answer]
    assert sizes[5:] == [MAX_BATCH, MAX_PATCHES, MAX_CLASSES, MAX_CANDIDATES, MAX_KEPT]


# --- letterbox ---


@pytest.mark.parametrize(
    'encoding, height, width, padding',
    [
        *((encoding, 90, 162, 13) for encoding in ENCODINGS),
        *(('bgr8', *size, 0) for size in [(1, 1), (1, 40), (40, 1), (3, 2), (37, 53)]),
        *(('bgr8', *size, 0) for size in [(HEIGHT, WIDTH), (200, 90), (720, 1280), (192, 320)]),
        ('uyvy', 3000, 4096, 0),
    ],
)
def test_every_encoding_and_size_is_within_one_grey_level_of_opencv(
    kernels, random, encoding, height, width, padding
):
    picture = camera_picture(random, encoding, height, width, padding)
    network = kernels.letterbox([picture], HEIGHT, WIDTH)
    assert_within_one_level(network[0], on_cpu(picture, HEIGHT, WIDTH))


def test_picture_of_the_network_s_size_is_not_touched(kernels, random):
    picture = camera_picture(random, 'bgr8', HEIGHT, WIDTH)
    network = kernels.letterbox([picture], HEIGHT, WIDTH)
    assert np.array_equal(np.rint(grey_levels(network[0])), on_cpu(picture, HEIGHT, WIDTH))


VIEWED = [
    *((encoding, 200, 324, 100.0) for encoding in ENCODINGS),
    *(('bgr8', 201, 323, row_px) for row_px in (0.0, 77.7, 200.0)),  # odd; the band at both edges
    *(('uyvy', *size) for size in [(61, 98, 30.0), (40, 652, 20.0), (720, 1280, 719.0)]),
    *(('yuyv', *size) for size in [(652, 130, 300.0), (1200, 1918, 555.0)]),
]
"""Encoding, height, width, row of the band. Patches of 324 and 98 columns begin at odd ones."""


@pytest.mark.parametrize('encoding, height, width, row_px', VIEWED)
def test_every_view_of_one_upload_is_within_one_grey_level_of_opencv(
    kernels, random, encoding, height, width, row_px
):
    picture = camera_picture(random, encoding, height, width, padding=13)
    size = height, width, (HEIGHT, WIDTH), 'whole+horizon+strip'
    views = views_of(*size, row_px)
    assert len(views) >= 2
    bgr, expected = to_bgr(picture), np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for first in range(0, len(views), MAX_BATCH):
        shown = views[first : first + MAX_BATCH]
        network = kernels.letterbox([picture] * len(shown), HEIGHT, WIDTH, views=shown)
        for planes, view in zip(network, shown, strict=False):
            view.apply(bgr, expected)
            assert_within_one_level(planes, expected)


def test_pictures_of_different_kinds_lie_in_their_places(kernels, random):
    left = camera_picture(random, 'yuyv', 70, 124, padding=6)
    right = camera_picture(random, 'mono8', 121, 177)
    pictures, views = [left, left, right, right], []
    for picture in (left, right):
        size = picture.height, picture.width, (HEIGHT, WIDTH), 'whole+horizon'
        views += [first_views(*size)[0], *views_around(picture.height / 2, *size)]
    network = kernels.letterbox(pictures, HEIGHT, WIDTH, views=views)
    for planes, picture, view in zip(network, pictures, views, strict=True):
        expected = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        view.apply(to_bgr(picture), expected)
        assert_within_one_level(planes, expected)


def test_picture_goes_up_once_for_all_its_views(random):
    picture, other = (camera_picture(random, 'bgr8', 30, 40) for _ in range(2))
    once = upload_bytes([picture])
    assert upload_bytes([picture] * MAX_BATCH) == once
    assert upload_bytes([picture, other, picture]) == upload_bytes([picture, other]) > once + 3600


def test_view_of_another_size_is_refused(random):
    """It would be read past the picture's end."""
    picture = camera_picture(random, 'bgr8', 30, 40)
    job = CameraJob([picture], [whole_view(31, 40, (HEIGHT, WIDTH))], THRESHOLDS, 0.6)
    with pytest.raises(ValueError, match='view of 40x31 does not fit a picture of 40x30'):
        write_upload(np.zeros(upload_bytes([picture]), np.uint8), job)


def test_other_places_are_left_alone_by_one_picture(kernels, random):
    network = kernels.letterbox([camera_picture(random, 'bgr8', 9, 9)], HEIGHT, WIDTH)
    assert (network[1:] == -1).all()


def test_planes_follow_the_card_s_colour_order(kernels, random):
    picture = camera_picture(random, 'bgr8', HEIGHT, WIDTH)
    rgb = kernels.letterbox([picture], HEIGHT, WIDTH, rgb=True)
    bgr = kernels.letterbox([picture], HEIGHT, WIDTH, rgb=False)
    assert np.array_equal(rgb[0], bgr[0, ::-1])


def test_strided_frame_needs_no_copy(kernels, random):
    wide = noise(random, 60, 200, 3)
    right_half = wide[:, 100:]
    picture = CameraPicture.of_bgr(right_half)
    assert np.shares_memory(picture.data, wide)
    network = kernels.letterbox([picture], HEIGHT, WIDTH)
    assert_within_one_level(network[0], letterbox(right_half, HEIGHT, WIDTH))


@pytest.mark.parametrize('turn', [np.flipud, np.fliplr, lambda bgr: bgr[:, ::2]])
def test_frame_in_an_odd_order_is_copied(random, turn):
    bgr = turn(noise(random, 6, 8, 3))
    assert np.array_equal(to_bgr(CameraPicture.of_bgr(bgr)), bgr)


@pytest.mark.parametrize(
    'change, words',
    [
        ({'data': np.zeros(100, np.uint8)}, '100 bytes of data'),
        ({'step': 10}, 'step is 10'),
        ({'encoding': 'bayer_rggb8'}, 'convert it to bgr8'),
        ({'encoding': 'uyvy', 'width': 7}, 'must be even'),
    ],
)
def test_picture_that_would_be_read_past_its_end_is_refused(change, words):
    values = {'data': np.zeros(300, np.uint8), 'encoding': 'bgr8', 'width': 10, 'height': 10}
    with pytest.raises(ImageError, match=words):
        upload_bytes([CameraPicture(**{**values, 'step': 30, **change})])  # type: ignore[arg-type]


# --- decoding ---


def test_layout_is_told_from_the_output_s_shape():
    assert guess_layout((2, 9, 5040)) == 'anchors'
    assert guess_layout((1, 6, 5040)) == 'anchors'
    assert guess_layout((1, 300, 6)) == 'end_to_end'


def anchors_output(
    random: np.random.Generator, boxes: int, likely: float, spread_px: float = 600
) -> Float32:
    """(4 + classes, boxes): few good scores, boxes that crowd around some places."""
    places = random.uniform(0, spread_px, (2, 1 + boxes // 12)).astype(np.float32)
    centre = places[:, random.integers(0, places.shape[1], boxes)] + random.normal(0, 4, (2, boxes))
    size = random.uniform(8, 60, (2, boxes))
    scores = random.uniform(0, 0.2, (CLASSES, boxes))
    good = np.flatnonzero(random.random(boxes) < likely)
    scores[random.integers(0, CLASSES, len(good)), good] = random.uniform(0.2, 1, len(good))
    return np.concatenate([centre, size, scores]).astype(np.float16).astype(np.float32)


def assert_same(found: Detections, expected: Detections, within_px: float = 0.01) -> None:
    assert np.array_equal(found.class_id, expected.class_id)
    assert np.array_equal(found.score, expected.score)
    np.testing.assert_allclose(found.xyxy_px, expected.xyxy_px, atol=within_px)
    np.testing.assert_equal(found.class_score, expected.class_score)


THRESHOLDS = np.array([0.25, 0.5, 0.3, 0.9, 0.21], np.float32)


@pytest.mark.parametrize('boxes, likely', [(1, 1.0), (300, 0.0), (315, 0.6), (1260, 0.1)])
@pytest.mark.parametrize('nms_iou', [0.0, 0.45, 0.6, 1.0])
def test_anchors_are_decoded_as_on_the_cpu(kernels, random, boxes, likely, nms_iou):
    output = anchors_output(random, boxes, likely)
    expected = decode(output, 'anchors', THRESHOLDS, nms_iou)
    assert_same(kernels.decode(output, 'anchors', THRESHOLDS, nms_iou), expected)


def test_equal_scores_and_equal_boxes_fall_as_on_the_cpu(kernels, random):
    output = anchors_output(random, 240, 0.0)
    output[:4] = np.rint(output[:4] / 8) * 8  # many overlaps are exact fractions
    output[4:] = 0
    output[4 + random.integers(0, CLASSES, 240), np.arange(240)] = random.choice([0.5, 0.75], 240)
    output[:, 100:120] = output[:, 20:40]
    thresholds = np.full(CLASSES, 0.5, np.float32)  # a score on the threshold counts
    for nms_iou in (0.25, 1 / 3, 0.5, 0.6):
        expected = decode(output, 'anchors', thresholds, nms_iou)
        assert len(expected)
        assert_same(kernels.decode(output, 'anchors', thresholds, nms_iou), expected)


def test_score_of_zero_is_no_cone_even_with_threshold_zero(kernels):
    output = np.zeros((4 + CLASSES, 40), np.float32)
    output[2:4] = 10
    output[4, 3] = 0.5
    thresholds = np.zeros(CLASSES, np.float32)
    expected = decode(output, 'anchors', thresholds, 0.6)
    assert_same(kernels.decode(output, 'anchors', thresholds), expected)


def test_views_have_their_own_answers(kernels, random):
    outputs = np.stack([anchors_output(random, 200, likely) for likely in (0.4, 0.1, 0.0, 0.7)])
    answers = kernels.answers(outputs, 'anchors', THRESHOLDS, 0.6)
    for answer, output in zip(answers, outputs, strict=True):
        found = read_answer(answer, CLASSES)
        assert_same(found, decode(output, 'anchors', THRESHOLDS, 0.6))


def end_to_end_output(random: np.random.Generator, boxes: int = 300) -> Float32:
    corners = np.sort(random.uniform(0, 600, (boxes, 2, 2)), axis=1).reshape(boxes, 4)
    score = np.sort(random.uniform(0, 1, boxes))[::-1]
    score[5:9] = score[5]
    class_id = random.integers(0, CLASSES, boxes)
    output = np.concatenate([corners, score[:, None], class_id[:, None]], axis=1)
    return output.astype(np.float16).astype(np.float32)


def test_end_to_end_is_decoded_as_on_the_cpu(kernels, random):
    output = end_to_end_output(random)
    expected = decode(output, 'end_to_end', THRESHOLDS, 0.6)
    assert len(expected) > 50
    assert_same(kernels.decode(output, 'end_to_end', THRESHOLDS), expected)


def test_no_cones_is_an_empty_answer(kernels):
    assert len(kernels.decode(np.zeros((9, 50), np.float32), 'anchors', THRESHOLDS)) == 0
    assert len(kernels.decode(np.zeros((50, 6), np.float32), 'end_to_end', THRESHOLDS)) == 0


@pytest.mark.parametrize('boxes', [MAX_KEPT + 1, MAX_CANDIDATES + 1])
def test_more_than_the_lists_hold_is_counted_and_left_to_the_cpu(kernels, boxes):
    output = np.zeros((4 + CLASSES, boxes), np.float32)
    output[0] = np.arange(boxes) % 40 * 20
    output[1] = np.arange(boxes) // 40 * 20
    output[2:4] = 10
    output[5] = 0.75
    (answer,) = kernels.answers(output[None], 'anchors', THRESHOLDS, 0.6)
    assert answer['candidates'] == boxes
    assert read_answer(answer, CLASSES) is None


@pytest.mark.parametrize('score', [np.nan, np.inf])
def test_scores_that_are_not_numbers_are_an_error(kernels, score):
    output, rows = np.zeros((4 + CLASSES, 50), np.float32), np.zeros((50, 6), np.float32)
    output[4 + 2, 17] = rows[49, 4] = score
    for outputs, layout in ((output, 'anchors'), (rows, 'end_to_end')):
        with pytest.raises(ModelError, match='scores that are not numbers'):
            kernels.decode(outputs, layout, THRESHOLDS)


@pytest.mark.parametrize('box', [np.nan, np.inf])
def test_boxes_that_are_not_numbers_are_an_error(kernels, box):
    output = np.zeros((4 + CLASSES, 50), np.float32)
    output[4, :3] = 0.75
    output[2, 1] = box
    with pytest.raises(ModelError, match='boxes that are not numbers'):
        kernels.decode(output, 'anchors', THRESHOLDS)


@pytest.mark.parametrize('named', [CLASSES, 40, -1, np.nan])
def test_class_that_the_card_does_not_have_is_an_error(kernels, named):
    rows = np.zeros((50, 6), np.float32)
    rows[7, 5] = named
    with pytest.raises(ModelError, match='names only 5 classes'):
        kernels.decode(rows, 'end_to_end', THRESHOLDS)


@pytest.mark.parametrize('sanitiser', ['address,undefined', 'thread'])
def test_kernels_touch_only_their_memory_and_never_race(tmp_path, sanitiser):
    program = tmp_path / 'check'
    compile_check(program, sanitiser)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    if 'unexpected memory mapping' in done.stderr:
        pytest.skip('this kernel places memory where the thread sanitiser does not know it')
    assert done.returncode == 0, done.stderr[:2000]
    assert 'kept' in done.stdout
