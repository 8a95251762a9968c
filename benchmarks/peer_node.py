r"""A detector node as one writes it straight away, to be measured beside ours.

    python benchmarks/peer_node.py --weights best.pt --image-topic /camera/image \
        --detections /camera/detections

rclpy, cv_bridge (its stand-in rosbags-image where that does not work) and `ultralytics` predict in
FP32: loaded and warmed up before it subscribes, all threads, queue depth 1, the transport profile
that this package ships, and nothing copied that need not be. Needs ROS 2 and the extra train.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.images import converter
from cone_perception.ros.transport import use_profile


def main(argv: Sequence[str] | None = None) -> int:
    """Answer pictures until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--weights', type=Path, required=True, help='.pt of Ultralytics')
    parser.add_argument('--image-topic', required=True, help='of sensor_msgs/Image')
    parser.add_argument('--detections', required=True, help='topic of the answers')
    parser.add_argument('--imgsz', type=int, default=640, help='384x640 for a picture of 16:9')
    parser.add_argument('--confidence', type=float, default=0.25)
    parser.add_argument('--iou', type=float, default=0.6)
    parser.add_argument('--threads', type=int, default=0, help='0: one for each core')
    args = parser.parse_args(argv)
    serve(args, load_peer(args.weights, args.imgsz, args.confidence, args.iou, args.threads))
    return 0


def load_peer(
    weights: Path, imgsz: int, confidence: float, iou: float, threads: int = 0
) -> Callable[[Any], Any]:
    """`ultralytics predict`, FP32 on the CPU: picture, (H, W, 3) uint8 BGR, to result; warm.

    imgsz: 640 makes 384x640 of a 720p picture. threads: 0 is one for each core.
    """
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch
    from ultralytics import YOLO

    model = YOLO(weights)
    options = {'imgsz': imgsz, 'conf': confidence, 'iou': iou, 'device': 'cpu', 'verbose': False}
    grey = np.full((720, 1280, 3), 114, np.uint8)
    model.predict(grey, **options)
    # After the first call: that sets its own number of threads.
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    for _ in range(3):
        model.predict(grey, **options)
    return lambda bgr: model.predict(bgr, **options)[0]


def serve(args: argparse.Namespace, predict: Any) -> None:
    """Subscribe, and answer in the callback."""
    use_profile()
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init()
    node = rclpy.create_node('peer')
    publisher = node.create_publisher(Detection2DArray, args.detections, 10)
    _, to_bgr = converter()

    def on_image(message: Image) -> None:
        result = predict(to_bgr(message))
        answer = Detection2DArray(header=message.header)
        boxes = result.boxes.data.tolist()  # left, top, right, bottom, score, class
        for left, top, right, bottom, score, class_id in boxes:
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id = result.names[int(class_id)]
            hypothesis.hypothesis.score = score
            detection = Detection2D(header=message.header, results=[hypothesis])
            detection.bbox.center.position.x = (left + right) / 2
            detection.bbox.center.position.y = (top + bottom) / 2
            detection.bbox.size_x = right - left
            detection.bbox.size_y = bottom - top
            answer.detections.append(detection)
        publisher.publish(answer)

    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(Image, args.image_topic, on_image, qos)
    node.get_logger().info(f'active: listening to {args.image_topic}')
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
