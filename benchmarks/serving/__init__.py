"""Our server next to its peers and next to what the same model computes without any server."""
