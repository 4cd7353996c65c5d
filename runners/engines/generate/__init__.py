"""Text generation: sequences are decoded together, each with the result it has alone."""
