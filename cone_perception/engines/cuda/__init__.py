"""The GPU's work around the network: kernels, memory, the thread that owns both."""
