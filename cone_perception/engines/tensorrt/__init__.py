"""Networks on the GPU: TensorRT and TensorRT-RTX."""
