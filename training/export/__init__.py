"""From weights to a bundle: ONNX, INT8, the gate."""
