"""Sources of kernels; imported only by the compiler's process, as Numba takes a second and 80 MB."""
