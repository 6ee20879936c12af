"""GPU kernels of a block in Triton; choice.py says which of them run, without importing Triton."""
