"""Kernels of prepared inference on x86 CPUs, in C++ (amx.cpp, vector.cpp), and what calls them."""

from .library import FAMILIES, choice, why_not
from .modules import CppBlock, CppDownsample, CppStem

__all__ = ["FAMILIES", "CppBlock", "CppDownsample", "CppStem", "choice", "why_not"]
