"""Ours beside the same network elsewhere: honest ratios of time and memory."""
