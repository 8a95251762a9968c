"""Cone detection for Formula Student driverless cars: what runs on the car."""

from __future__ import annotations

import os
import sys

__version__ = '0.1.0'

# Both runtimes send usage data over the network from each process that imports them. OpenVINO takes
# a stub where its sender cannot be imported; ONNX Runtime (from 1.29) reads its variable when it is
# loaded, and no other switch stops all of it.
sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
os.environ['ORT_DISABLE_TELEMETRY'] = '1'

MOST_PIXELS = 1 << 26
"""Largest compressed picture that is decoded, 200 MB as bgr8; 1 MB of PNG can hold 3 GB."""
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MOST_PIXELS))  # read when cv2 is imported
