"""Networks on the CPU: OpenVINO, ONNX Runtime."""
