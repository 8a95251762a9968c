import numpy as np
import pytest

from cone_perception.preprocess import PAD_VALUE, whole_view
from cone_perception.types import Detections

SIZES = [
    (1, 1), (1, 4000), (4000, 1), (720, 1280), (1280, 720), (333, 777), (3000, 4096), (384, 640),
    (385, 641), (376, 672), (1080, 1920), (2, 3),
]  # fmt: skip


NETWORK = (384, 640)


def boxes(*xyxy):
    count = len(xyxy)
    return Detections(
        np.array(xyxy, np.float32), np.full(count, 0.5, np.float32), np.zeros(count, np.int64)
    )


def to_network(patch, box):
    """(N, 4) boxes in the network's pixels, by a formula of its own."""
    x = patch.place.width / patch.source.width
    y = patch.place.height / patch.source.height
    offset = np.array(patch.place[:2] * 2) - np.array(patch.source[:2] * 2) * [x, y, x, y]
    return (np.array(box) * [x, y, x, y] + offset).astype(np.float32)


@pytest.mark.parametrize('height, width', SIZES)
def test_box_returns_in_source_pixels(height, width):
    (patch,) = whole_view(height, width, NETWORK).patches
    box = np.array(
        [[0, 0, width, height], [0.25 * width, 0.5 * height, 0.75 * width, height]], np.float32
    )
    back = patch.to_source(boxes(*to_network(patch, box)), width, height).xyxy_px
    np.testing.assert_allclose(back, box, atol=1e-3 * max(height, width))


@pytest.mark.parametrize('height, width', SIZES)
def test_picture_fills_the_input_on_one_side_and_is_grey_around(height, width):
    view = whole_view(height, width, NETWORK)
    out = np.empty((384, 640, 3), np.uint8)
    view.apply(np.full((height, width, 3), 7, np.uint8), out)
    place = view.patches[0].place
    assert place.height == 384 or place.width == 640
    assert (out == 7).all(axis=2).sum() == place.height * place.width
    assert set(np.unique(out)) <= {7, PAD_VALUE}


def test_boxes_outside_the_picture_are_clipped():
    ((_, found),) = whole_view(720, 1280, NETWORK).to_source(boxes([-50, -50, 900, 900]))
    np.testing.assert_array_equal(found.xyxy_px, [[0, 0, 1280, 720]])


def test_hd720_fills_360_rows_of_a_384x640_input():
    (patch,) = whole_view(720, 1280, NETWORK).patches
    assert patch.place == (0, 12, 640, 372)


def test_painted_square_lands_where_its_box_says():
    view = whole_view(720, 1280, NETWORK)
    picture = np.zeros((720, 1280, 3), np.uint8)
    picture[200:400, 300:500] = 255
    out = np.empty((384, 640, 3), np.uint8)
    view.apply(picture, out)
    ys, xs = np.nonzero((out == 255).all(axis=2))
    expected = to_network(view.patches[0], [[300, 200, 500, 400]])[0]
    np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], expected, atol=1)


@pytest.mark.parametrize('side', range(4))
def test_sizes_below_one_pixel_are_refused(side):
    sizes = [10, 10, 10, 10]
    sizes[side] = 0
    with pytest.raises(ValueError, match='must be at least 1'):
        whole_view(sizes[0], sizes[1], (sizes[2], sizes[3]))
