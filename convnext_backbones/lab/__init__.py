"""The proofs: the same network elsewhere, accuracy on pictures, speed beside the others."""
