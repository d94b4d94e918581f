"""Packed files (A.3.2): HDF5 with an image, its masks and, beside them, its refined masks."""
