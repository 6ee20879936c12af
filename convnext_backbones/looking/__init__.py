"""A look inside: what a network computes of a picture, and what in it speaks for a class."""
