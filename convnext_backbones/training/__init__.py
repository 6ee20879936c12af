"""What a training run needs and the frameworks lack."""
