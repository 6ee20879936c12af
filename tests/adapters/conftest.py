"""Keras's backend is chosen before Keras is imported: torch, where its own choice is not installed."""

import importlib.util
import os

if importlib.util.find_spec("tensorflow") is None:  # any lane but keras
    os.environ.setdefault("KERAS_BACKEND", "torch")
