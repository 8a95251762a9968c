"""The second look of the node: where its band lies, and what it tells of that."""

from __future__ import annotations

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from image_messages import encode
from node_process import first_true, ros_message, running_node, values_of, wait_for
from sensor_msgs.msg import CameraInfo, Image
from tiny_network import painted

from cone_perception.preprocess import band_views
from cone_perception.views import band_edges, mounted_row

pytestmark = pytest.mark.ros

MOUNT = {'mount_height_m': '0.95', 'mount_pitch_deg': '4.0'}
NODE = '/views/detector'


@pytest.fixture(scope='module')
def looking_twice(observer, tmp_path_factory):
    given = {'cameras': '[left, right]', 'views': 'whole+horizon', 'horizon': '0.25', **MOUNT}
    given['max_latency_ms'] = '9000.0'
    with running_node(tmp_path_factory, '/views', {}, **given) as process:
        for side in ('left', 'right'):
            for name, kind in (('image', Image), ('camera_info', CameraInfo)):
                publisher = observer.publisher(f'/views/{side}/{name}', kind)
                wait_for(publisher.get_subscription_count, f'the subscription of {side}/{name}')
        yield process


def send(observer, side, bgr):
    """Send a picture until one is answered; returns the record of ~/timing of that."""
    timing = observer.listen(f'{NODE}/timing', DiagnosticArray)

    def once():
        stamp_ns = observer.next_stamp_ns()
        message = ros_message(encode(bgr, 'bgr8'), stamp_ns)
        observer.publisher(f'/views/{side}/image', Image).publish(message)

        def record():
            told = map(values_of, list(timing))
            return [v for v in told if v['stamp_ns'] == str(stamp_ns) and v['camera'] == side]

        return first_true(record, 0.5)

    (values,) = wait_for(once, 'an answer')
    return values


def test_band_follows_the_boxes_until_camera_info_says_where_it_lies(observer, looking_twice):
    cone = painted(('blue_cone', 640, 168, 64, 64))
    assert float(send(observer, 'left', np.full_like(cone, 114))['band_px']) == 180
    for _ in range(2):
        values = send(observer, 'left', cone)
    assert 160 < float(values['band_px']) < 179  # at the cone, as far as this network tells
    name = 'views/detector: left'
    status = observer.wait_for_diagnostics(name, lambda s: s.values['band from'] == 'boxes')
    assert status.level == 1
    assert 'nothing came on /views/left/camera_info' in status.message
    # P counts, not K.
    info = CameraInfo(width=1280, height=720, k=[1.0, 0, 1, 0, 1, 1, 0, 0, 1])
    info.p = [520.0, 0, 640, 0, 0, 528, 360, 0, 0, 0, 1, 0]
    observer.publisher('/views/left/camera_info', CameraInfo).publish(info)
    status = observer.wait_for_diagnostics(name, lambda s: s.values['band from'] == 'mounting')
    row_px = mounted_row(528.0, 360.0, 0.95, 4.0)
    assert float(status.values['band (px)']) == pytest.approx(row_px, abs=0.1)
    # The cone stands 170 rows higher, which no car's camera shows.
    assert 'check mount_height_m' in status.message
    debug = observer.listen('/views/left/debug_image', Image)
    picture = wait_for(lambda: send(observer, 'left', cone) and debug, 'a debug image')[-1]
    drawn = np.frombuffer(picture.data, np.uint8).reshape(720, 1280, 3)
    ((top, bottom),) = band_edges(band_views('horizon', 720, 1280, (384, 640), row_px))
    assert (drawn[[top, bottom - 1]][:, [0, -1]] == 255).all()
    assert float(send(observer, 'left', cone)['band_px']) == pytest.approx(row_px, abs=0.01)


def test_useless_camera_info_is_told_and_the_boxes_are_followed(observer, looking_twice):
    grey = np.full((720, 1280, 3), 114, np.uint8)
    assert float(send(observer, 'right', grey)['band_px']) == 180
    name, topic = 'views/detector: right', '/views/right/camera_info'
    wrong = {
        'P and K of camera_info are zero': CameraInfo(width=1280, height=720),
        'far cones would stand at row': CameraInfo(
            width=1280, height=720, k=[1.0, 0, 0, 0, 1, 10_000, 0, 0, 1]
        ),
    }
    for reason, info in wrong.items():
        observer.publisher(topic, CameraInfo).publish(info)
        status = observer.wait_for_diagnostics(name, lambda s, why=reason: why in s.message)
        assert (status.level, status.values['band from']) == (1, 'start')
    looking_twice.wait_for_output('right: no positions: /views/right/image: P and K')
    looking_twice.wait_for_output('right: the band follows the boxes, not the mounting')
    node = observer.diagnostics('views/detector: node')
    assert node.values['views'] == 'whole+horizon'
    assert node.values['second look'].startswith('each frame (a frame takes ')
    looking_twice.wait_for_output('each frame gets it')
