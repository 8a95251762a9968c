"""What runs on an NVIDIA card around the network: kernels, memory, the thread that owns both."""
