"""The mini world: drawn scenes whose truth is known to the pixel."""
