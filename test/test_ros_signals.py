"""SIGINT and SIGTERM end the node at once with status 0, whatever it does at that moment."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from image_messages import encode
from node_process import NodeProcess, ros_message, wait_for
from sensor_msgs.msg import Image
from tiny_network import write_bundle

from cone_perception.ros.transport import NODE_SEGMENT_BYTES

pytestmark = pytest.mark.ros

LIMIT_S = 3.0
SIDE_PX = 256
GREY, WHITE = 114, 255


STALLING = """
<ir_version: 9, opset_import: ["": 17]>
stalling (float[1, 3, 256, 256] images) => (float[1, 10, 6] output)
<float limit = {0.9},
 float tiny = {1e-30}, int64 turns = {20000}, int64 once = {1}, bool true = {1}>
{
    brightest = ReduceMax <keepdims = 0> (images)
    stall = Greater (brightest, limit)
    one = Cast <to = 7> (stall)
    more = Mul (one, turns)
    count = Add (once, more)
    end = Loop <body = body
        (int64 turn, bool go, float[1, 3, 256, 256] before)
        => (bool go_on, float[1, 3, 256, 256] after)
        {
            sum = Conv <pads = [7, 7, 7, 7]> (before, kernel)
            after = Tanh (sum)
            go_on = Identity (go)
        }> (count, true, images)
    mean = ReduceMean <keepdims = 0> (end)
    nothing = Mul (mean, tiny)
    almost = Add (zeros, nothing)
    output = Round (almost)
}
"""
"""A turn more than none: OpenVINO 2025.0 forgets the input of a loop of no turns."""


def write_stalling_bundle(folder: Path, brightness: float) -> Path:
    """A network that computes for minutes when a pixel is brighter than `brightness`, 0..1."""
    model = onnx.parser.parse_model(STALLING.replace('0.9', str(brightness)))
    kernel = np.random.default_rng(0).normal(0, 0.1, (3, 3, 15, 15)).astype(np.float32)
    for name, value in (('kernel', kernel), ('zeros', np.zeros((1, 10, 6), np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return write_bundle(folder, 'stalling', model, 'end_to_end', 1, SIDE_PX, SIDE_PX)


def assert_ends_well(process, number):
    """In time, with status 0, without a trace on the terminal or in shared memory."""
    own = [path for path, size in process.shared_memory().items() if size > NODE_SEGMENT_BYTES]
    assert own
    status, seconds = process.stop(number)
    assert status == 0, process.output
    assert seconds < LIMIT_S, process.output
    assert 'Traceback' not in process.output
    assert not own[0].exists()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_during_load(ros, tmp_path, number):
    """Inside the runtime, while it warms up on grey."""
    bundle = write_stalling_bundle(tmp_path / 'model', GREY / 255 - 0.1)
    process = NodeProcess(tmp_path / 'node.log', {'model': bundle})
    process.wait_for_output('loading stalling')
    time.sleep(1.0)
    assert 'active' not in process.output
    assert_ends_well(process, number)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_during_inference(observer, tmp_path, number):
    """Inside the runtime, while it works on a white picture."""
    bundle = write_stalling_bundle(tmp_path / 'model', 0.9)
    process = NodeProcess(tmp_path / 'node.log', {'model': bundle}, *('-r', '__ns:=/stall'))
    process.wait_for_output('active: listening')
    publisher = observer.publisher('/stall/camera/image', Image)
    wait_for(publisher.get_subscription_count, 'the subscription')
    fields = encode(np.full((SIDE_PX, SIDE_PX, 3), WHITE, np.uint8), 'bgr8')

    def stalls():
        publisher.publish(ros_message(fields, observer.next_stamp_ns()))
        status = observer.wait_for_diagnostics('stall/detector: camera', lambda s: True)
        return status.level == 2 and 'the network is stuck' in status.message

    wait_for(stalls, 'frames that wait for the network')
    assert_ends_well(process, number)
