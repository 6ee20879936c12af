"""Networks as files for other runtimes: ONNX, OpenVINO, torch's exported programs.

No file leaves unchecked: what was written is run by its runtime at several sizes and batches, and compared
with what PyTorch says (checking.py); a file that differs is removed.
"""
