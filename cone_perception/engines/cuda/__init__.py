"""What runs on an NVIDIA GPU around the network: kernels, memory, the thread that owns both."""
