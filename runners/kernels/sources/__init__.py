"""What kernels are compiled from; imported only where they are compiled, as the compiler takes a second and 80 MB."""
