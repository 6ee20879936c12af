"""The fast paths: what convnext.py computes, with the same numbers; see dispatch.py."""
