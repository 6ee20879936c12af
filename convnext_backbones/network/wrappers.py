"""What wrapping modules put into parameter names."""

# DDP, torch.compile, FSDP, activation checkpointing, DeepSpeed through Lightning Fabric.
WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
}


def unwrapped(name: str) -> str:
    """A parameter's name without the parts that wrapping modules put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


# Those that leave their part of the name out of state dicts.
SILENT = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def name_in_state_dict(name: str) -> str:
    """A module's or parameter's name as the state dict of the whole model has it."""
    return ".".join(part for part in name.split(".") if part not in SILENT)
