import numpy as np
import pytest

from cone_perception.preprocess import PAD_VALUE, Letterbox

SIZES = [
    (1, 1), (1, 4000), (4000, 1), (720, 1280), (1280, 720), (333, 777), (3000, 4096), (384, 640),
    (385, 641), (376, 672), (1080, 1920), (2, 3),
]  # fmt: skip


def to_network(letterbox, box):
    """(N, 4) boxes in the network's pixels, by a formula of its own."""
    x = letterbox.inner_width_px / letterbox.source_width_px
    y = letterbox.inner_height_px / letterbox.source_height_px
    offset = np.array([letterbox.left_px, letterbox.top_px] * 2)
    return (np.array(box) * [x, y, x, y] + offset).astype(np.float32)


@pytest.mark.parametrize('height, width', SIZES)
def test_box_returns_in_source_pixels(height, width):
    letterbox = Letterbox(height, width, 384, 640)
    box = np.array(
        [[0, 0, width, height], [0.25 * width, 0.5 * height, 0.75 * width, height]], np.float32
    )
    back = letterbox.to_source(to_network(letterbox, box))
    np.testing.assert_allclose(back, box, atol=1e-3 * max(height, width))


@pytest.mark.parametrize('height, width', SIZES)
def test_picture_fills_the_input_on_one_side_and_is_grey_around(height, width):
    letterbox = Letterbox(height, width, 384, 640)
    out = np.empty((384, 640, 3), np.uint8)
    letterbox.apply(np.full((height, width, 3), 7, np.uint8), out)
    assert letterbox.inner_height_px == 384 or letterbox.inner_width_px == 640
    assert (out == 7).all(axis=2).sum() == letterbox.inner_height_px * letterbox.inner_width_px
    assert set(np.unique(out)) <= {7, PAD_VALUE}


def test_boxes_outside_the_picture_are_clipped():
    letterbox = Letterbox(720, 1280, 384, 640)
    box = letterbox.to_source(np.array([[-50, -50, 900, 900]], np.float32))
    np.testing.assert_array_equal(box, [[0, 0, 1280, 720]])


def test_hd720_fills_360_rows_of_a_384x640_input():
    letterbox = Letterbox(720, 1280, 384, 640)
    assert (letterbox.inner_height_px, letterbox.inner_width_px) == (360, 640)
    assert (letterbox.top_px, letterbox.left_px) == (12, 0)


def test_painted_square_lands_where_its_box_says():
    letterbox = Letterbox(720, 1280, 384, 640)
    picture = np.zeros((720, 1280, 3), np.uint8)
    picture[200:400, 300:500] = 255
    out = np.empty((384, 640, 3), np.uint8)
    letterbox.apply(picture, out)
    ys, xs = np.nonzero((out == 255).all(axis=2))
    expected = to_network(letterbox, [[300, 200, 500, 400]])[0]
    np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], expected, atol=1)


@pytest.mark.parametrize('side', range(4))
def test_sizes_below_one_pixel_are_refused(side):
    sizes = [10, 10, 10, 10]
    sizes[side] = 0
    with pytest.raises(ValueError, match='must be at least 1'):
        Letterbox(*sizes)
