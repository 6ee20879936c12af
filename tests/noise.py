"""What frameworks and libraries say, and a console does not show: each is in the log file."""

import re

# Regular expressions, by what says it.
OPENMMLAB = (
    r"Iter\(val\)|Epoch\(val\)",
    "System environment:",
    "Hooks will be executed in the following order",
    r"\bdefault_hooks = dict\(",  # the config
    "Name of parameter - Initialization information",
    "Checkpoints will be saved to",
)
SEGMENTATION = ("The prefix is not set in metric class", "UserWarning: ", "per class results:")
COCO = (
    "loading annotations into memory",
    "creating index",
    "Running per image evaluation",
    r"Average Precision +\(AP\) @\[ IoU=0\.50:0\.95",
)
DETECTRON2 = (
    "Rank of current process",
    "Environment info:",
    "Command line arguments:",
    "Full config saved to",
    "Serializing the dataset",
    "Start inference on",
    "copypaste: ",
)
DETECTRON2_BOXES = (r"Loaded \d+ images in COCO format", "creating index", COCO[-1])
# Of every run, by our own words.
STEPS = (
    r"model: +\w+, [\d.]+ million parameters",
    r"device: +(cpu|cuda)",
    r"log: +\S+",
    r"data: train \d+",
)


def not_shown(patterns, printed: str, log: str) -> list[str]:
    """The patterns that a console shows, or that its log file lacks."""
    return [p for p in patterns if re.search(p, printed) or not re.search(p, log)]


def lacking(patterns, *texts: str) -> list[str]:
    """The patterns that one of the texts lacks."""
    return [p for p in patterns if not all(re.search(p, text) for text in texts)]
