"""SIGINT and SIGTERM end the node at once with status 0, whatever it does at that moment."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from image_messages import encode
from node_process import NodeProcess, ros_message, wait_for
from onnx import TensorProto, helper, numpy_helper
from sensor_msgs.msg import Image
from tiny_network import write_bundle

from cone_perception.ros.transport import NODE_SEGMENT_BYTES

pytestmark = pytest.mark.ros

LIMIT_S = 3.0
SIDE_PX = 256
GREY, WHITE = 114, 255


def write_stalling_bundle(folder: Path, brightness: float) -> Path:
    """A network that computes for minutes when a pixel is brighter than `brightness`, 0..1."""
    kernel = np.random.default_rng(0).normal(0, 0.1, (3, 3, 15, 15)).astype(np.float32)
    body = helper.make_graph(
        [
            helper.make_node('Conv', ['before', 'kernel'], ['sum'], pads=[7] * 4),
            helper.make_node('Tanh', ['sum'], ['after']),
            helper.make_node('Identity', ['go'], ['go_on']),
        ],
        'body',
        [
            helper.make_tensor_value_info('turn', TensorProto.INT64, []),
            helper.make_tensor_value_info('go', TensorProto.BOOL, []),
            helper.make_tensor_value_info('before', TensorProto.FLOAT, [1, 3, SIDE_PX, SIDE_PX]),
        ],
        [
            helper.make_tensor_value_info('go_on', TensorProto.BOOL, []),
            helper.make_tensor_value_info('after', TensorProto.FLOAT, [1, 3, SIDE_PX, SIDE_PX]),
        ],
        [numpy_helper.from_array(kernel, 'kernel')],
    )
    constants = {
        'limit': np.array(brightness, np.float32),
        'turns': np.array(20_000, np.int64),
        'once': np.array(1, np.int64),  # OpenVINO 2025.0 forgets the input of a loop of no turns
        'true': np.array(True),
        'tiny': np.array(1e-30, np.float32),
        'zeros': np.zeros((1, 10, 6), np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node('ReduceMax', ['images'], ['brightest'], keepdims=0),
            helper.make_node('Greater', ['brightest', 'limit'], ['stall']),
            helper.make_node('Cast', ['stall'], ['one'], to=TensorProto.INT64),
            helper.make_node('Mul', ['one', 'turns'], ['more']),
            helper.make_node('Add', ['once', 'more'], ['count']),
            helper.make_node('Loop', ['count', 'true', 'images'], ['end'], body=body),
            helper.make_node('ReduceMean', ['end'], ['mean'], keepdims=0),
            helper.make_node('Mul', ['mean', 'tiny'], ['nothing']),
            helper.make_node('Add', ['zeros', 'nothing'], ['output']),
        ],
        'stalling',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, SIDE_PX, SIDE_PX])],
        [helper.make_tensor_value_info('output', TensorProto.FLOAT, [1, 10, 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
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
