"""Sources of kernels.

Only the compiler's process imports them, as Numba takes a second and 80 MB.
"""
