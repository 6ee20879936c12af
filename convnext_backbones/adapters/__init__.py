"""A framework a folder, with everything that is its own; each imports it when it is imported itself."""
