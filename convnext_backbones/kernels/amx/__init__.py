"""Kernels of prepared inference on CPUs with AMX, in C++ (kernels.cpp), and what calls them."""

from .library import why_not
from .modules import AmxBlock, AmxDownsample, AmxStem, fits, takes

__all__ = ["AmxBlock", "AmxDownsample", "AmxStem", "fits", "takes", "why_not"]
