"""The same results in less time: layers and batches in the form that suits the processor they are computed on."""
