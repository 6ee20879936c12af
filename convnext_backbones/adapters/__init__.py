"""One thin adapter per framework; each imports its framework when it is imported itself."""
