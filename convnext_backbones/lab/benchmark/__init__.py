"""Ours beside the same network elsewhere: honest ratios of time and memory.

measuring: seconds and bytes of a call. machine: the machine, its speed and the limit that follows.
contests: who does the same work faster. growth: other areas, new shapes, the start. figures: what is to
be reached. page, plots: what is written of it.
"""
