"""Kernels in C of what is done to every pixel, with the bits of torch and numpy, beside which they are tested."""
