"""A run of any framework: what it must offer, what is left to look at, and data to try it on."""
