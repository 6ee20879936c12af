"""Kernels of prepared inference on CPUs with AMX, in C++, and their loader."""
