"""Every encoding becomes the picture that was meant, and a lying message becomes an ImageError."""

from __future__ import annotations

import struct
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
from image_messages import ENCODINGS, compressed, encode, tile_picture

from cone_perception import images
from cone_perception.errors import ImageError
from cone_perception.types import CameraPicture, Frame

TOLERANCE = dict.fromkeys(('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21'), 4)


@pytest.mark.parametrize('padding', [0, 7])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_gives_the_same_picture(encoding, padding):
    bgr = tile_picture(48, 64)
    picture = images.to_bgr(encode(bgr, encoding, padding))
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    # The middle of each tile: demosaicing and shared chroma blur the tiles' borders.
    expected = bgr[4::16, 4::16]
    if encoding in ('mono8', 'mono16', '8UC1', '16UC1'):
        grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)[4::16, 4::16]
        expected = np.repeat(grey[..., None], 3, axis=2)
    difference = np.abs(picture[4::16, 4::16].astype(int) - expected)
    assert difference.max() <= TOLERANCE.get(encoding, 1)


@pytest.mark.parametrize('encoding', ['bgra8', 'yuv422', '8UC3'])
def test_picture_as_sent_is_the_message_itself(encoding):
    message = encode(tile_picture(48, 64), encoding, padding=6)
    picture = images.as_sent(message, frozenset({'bgr8', 'bgra8', 'yuv422'}))
    assert (picture.width, picture.height, picture.step) == (64, 48, message.step)
    assert picture.encoding == {'8UC3': 'bgr8'}.get(encoding, encoding)
    assert np.shares_memory(picture.data, message.data)
    np.testing.assert_array_equal(images.to_bgr(picture), images.to_bgr(message))


def test_picture_as_sent_is_refused_like_any_other_and_none_where_it_cannot_be_read():
    fields = encode(tile_picture(48, 64), 'bgra8')
    assert images.as_sent(fields, frozenset({'bgr8'})) is None
    assert images.as_sent(compressed(tile_picture(48, 64)), frozenset({'bgr8'})) is None
    fields.data = fields.data[:-1]
    with pytest.raises(ImageError, match='bytes of data'):
        images.as_sent(fields, frozenset({'bgra8'}))


def test_bgr8_is_not_copied():
    message = encode(tile_picture(48, 64), 'bgr8', padding=5)
    picture = images.to_bgr(message)
    message.data[0] ^= 0xFF
    assert picture[0, 0, 0] == message.data[0]


def test_padded_bgr8_can_be_resized():
    bgr = tile_picture(48, 64)
    padded = images.to_bgr(encode(bgr, 'bgr8', padding=5))
    np.testing.assert_array_equal(cv2.resize(padded, (32, 24)), cv2.resize(bgr, (32, 24)))


def test_big_endian_16_bit_is_read_as_such():
    message = encode(tile_picture(48, 64), 'mono16')
    swapped = encode(tile_picture(48, 64), 'mono16')
    swapped.data = np.frombuffer(swapped.data, np.uint16).byteswap().view(np.uint8)
    swapped.is_bigendian = 1
    np.testing.assert_array_equal(images.to_bgr(message), images.to_bgr(swapped))


@pytest.mark.parametrize('kind', ['.jpg', '.png'])
def test_compressed_picture_is_decoded(kind):
    bgr = tile_picture(48, 64)
    picture = images.to_bgr(compressed(bgr, kind))
    assert np.abs(picture[4::16, 4::16].astype(int) - bgr[4::16, 4::16]).max() <= 6


def test_compressed_grey_picture_becomes_three_channels():
    message = compressed(cv2.cvtColor(tile_picture(48, 64), cv2.COLOR_BGR2GRAY), '.jpg')
    assert images.to_bgr(message).shape == (48, 64, 3)


@pytest.mark.parametrize('order', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize(
    ('bits', 'kind', 'tolerance'), [(8, '.jpg', 24), (8, '.png', 1), (16, '.png', 1)]
)
def test_compressed_mosaic_becomes_the_picture_that_was_meant(order, bits, kind, tolerance):
    bgr, encoding = tile_picture(48, 64), f'bayer_{order}{bits}'
    mosaic = encode(bgr, encoding).data.view(f'uint{bits}').reshape(48, 64)
    message = compressed(mosaic, kind)
    message.format = f'{encoding}; {kind[1:]} compressed '
    picture = images.to_bgr(message)
    assert np.abs(picture[4::16, 4::16].astype(int) - bgr[4::16, 4::16]).max() <= tolerance


def test_compressed_picture_that_was_demosaiced_before_stays_as_it_is():
    message = compressed(tile_picture(48, 64), '.png')
    message.format = 'bayer_rggb8; png compressed bgr8'
    np.testing.assert_array_equal(images.to_bgr(message), tile_picture(48, 64))
    message.format = 'bayer_rgbw8; png compressed '
    with pytest.raises(ImageError, match='pattern is not known'):
        images.to_bgr(message)


def test_picture_too_large_is_refused_by_its_header():
    large = bytearray(compressed(tile_picture(48, 64), '.png').data)
    large[16:24] = struct.pack('>II', 32000, 32000)
    with pytest.raises(ImageError, match='32000x32000 pixels, more than 64 megapixels'):
        images.to_bgr(SimpleNamespace(format='png', data=large))


@pytest.mark.parametrize('kind', ['.jpg', '.ppm'])
def test_other_kinds_of_pictures_that_are_too_large_are_refused_by_opencv(kind, tmp_path):
    """In a process of its own: OpenCV reads its limit when it is imported."""
    data = bytearray(compressed(tile_picture(48, 64), kind).data)
    if kind == '.ppm':
        data[:] = data.replace(b'64 48', b'32000 32000')
    else:
        at = data.index(b'\xff\xc0') + 5
        data[at : at + 4] = struct.pack('>HH', 32000, 32000)
    (tmp_path / f'large{kind}').write_bytes(data)
    code = (
        'import sys; from types import SimpleNamespace as S; from pathlib import Path\n'
        'from cone_perception.images import to_bgr\n'
        'to_bgr(S(format="", data=Path(sys.argv[1]).read_bytes()))'
    )
    command = [sys.executable, '-c', code, str(tmp_path / f'large{kind}')]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'ImageError' in ended.stderr
    assert 'MAX_IMAGE_PIXELS' in ended.stderr or 'more than 64 megapixels' in ended.stderr


@pytest.mark.parametrize(
    ('change', 'complaint'),
    [
        ({'width': 0}, 'no pixels'),
        ({'height': 0}, 'no pixels'),
        ({'height': 49}, 'bytes of data'),
        ({'data': b''}, 'bytes of data'),
        ({'step': 0}, 'step is 0'),
        ({'width': 65}, 'a row needs 195'),
        ({'encoding': 'bgr9'}, "'bgr9'"),
        ({'encoding': ''}, 'not known'),
        ({'encoding': '32FC1'}, 'not known'),
        ({'encoding': 'nv12', 'height': 47}, 'even'),
        ({'encoding': 'uyvy', 'width': 63}, 'even'),
        ({'encoding': 'bayer_rggb8', 'width': 1, 'height': 1}, 'at least 2x2'),
        ({'width': 2**32 - 1, 'height': 2**32 - 1, 'step': 2**32 - 1}, 'a row needs'),
    ],
)
def test_lying_message_is_refused_and_named(change, complaint):
    message = encode(tile_picture(48, 64), 'bgr8')
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError, match=complaint):
        images.to_bgr(message)


@pytest.mark.parametrize(
    ('damage', 'complaint'),
    [
        (lambda data: b'', 'empty'),
        (lambda data: data[: len(data) // 2], 'truncated|damaged'),
        (lambda data: data[:4] + bytes(len(data) - 16) + data[-12:], 'corrupt|damaged'),
        (lambda data: b'not a picture', 'corrupt'),
    ],
)
@pytest.mark.parametrize('kind', ['.jpg', '.png'])
def test_damaged_compressed_picture_is_refused_and_named(kind, damage, complaint):
    message = compressed(tile_picture(48, 64), kind)
    message.data = damage(bytes(message.data))
    with pytest.raises(ImageError, match=complaint):
        images.to_bgr(message)


def damaged_bytes(data):
    """200 bytes of the picture's scan are others."""
    spoilt, random = bytearray(data), np.random.default_rng(0)
    for at in random.integers(len(data) // 4, len(data) - 2, 200):
        spoilt[at] = random.integers(256)
    return bytes(spoilt)


def zeroed_third(data):
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


@pytest.mark.parametrize('damage', [damaged_bytes, zeroed_third])
def test_jpeg_that_libjpeg_complains_of_is_refused(damage):
    """OpenCV returned it as a good picture, with other cones in it."""
    noise = np.random.default_rng(1).integers(0, 256, (90, 160, 3), np.uint8)
    message = compressed(cv2.resize(noise, (1280, 720)))
    good = images.to_bgr(message)
    np.testing.assert_array_equal(good, cv2.imdecode(np.frombuffer(message.data, np.uint8), 1))
    message.data = damage(message.data)
    with pytest.raises(ImageError, match='the JPEG is damaged'):
        images.to_bgr(message)


def test_jpeg_is_turned_as_its_exif_says_where_that_is_asked_for():
    message = compressed(tile_picture(48, 64))
    tiff = b'II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'
    exif = b'Exif\0\0' + tiff
    segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
    message.data = message.data[:2] + segment + message.data[2:]
    assert images.to_bgr(message).shape == (48, 64, 3)
    assert images.to_bgr(message, upright=True).shape == (64, 48, 3)


def fake_cv_bridge(monkeypatch, convert):
    module = ModuleType('cv_bridge')
    module.CvBridge = lambda: SimpleNamespace(imgmsg_to_cv2=convert)
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)
    images.converter.cache_clear()


def test_cv_bridge_is_used_where_it_works(monkeypatch):
    asked = []

    def convert(message, desired_encoding):
        asked.append(message.encoding)
        return message.data.reshape(message.height, message.width, 3)[..., ::-1]

    fake_cv_bridge(monkeypatch, convert)
    bgr = tile_picture(48, 64)
    np.testing.assert_array_equal(images.to_bgr(encode(bgr, 'rgb8', padding=3)), bgr)
    assert asked[-1] == 'rgb8'
    assert images.converter()[0] == 'cv_bridge'
    images.converter.cache_clear()


def test_cv_bridge_that_breaks_is_replaced(monkeypatch):
    def convert(message, desired_encoding):
        raise AttributeError('_ARRAY_API not found')

    fake_cv_bridge(monkeypatch, convert)
    bgr = tile_picture(48, 64)
    np.testing.assert_array_equal(images.to_bgr(encode(bgr, 'rgb8')), bgr)
    assert images.converter()[0] == 'rosbags-image'
    images.converter.cache_clear()


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_grey_level_is_told_by_a_few_pixels_of_any_encoding(encoding):
    bgr = np.full((720, 1280, 3), 114, np.uint8)
    bgr[360:] = 14
    message = encode(bgr, encoding, padding=5)
    sent = CameraPicture(message.data, encoding, 1280, 720, message.step)
    assert images.grey_level(sent) == pytest.approx(64, abs=3)
    assert images.grey_level(Frame(images.to_bgr(message))) == pytest.approx(64, abs=3)
