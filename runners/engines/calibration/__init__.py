"""What batches, lanes and threads suit a model on the machine it is on: measured when it is loaded, and kept."""
