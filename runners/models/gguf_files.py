"""Cached reading of GGUF files.

transformers parses the metadata of a file, with all words and merges of its tokenizer, three times: for the tokenizer,
the config and the weights. It also lists the names of all tensors again for each module of the model.
With the cache SmolLM2 loads in 6 s instead of 31 s (two cores of an AMD EPYC).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np


@contextmanager
def cache_gguf_reads() -> Iterator[None]:
    """Cache the parsed GGUF files, as plain arrays, in the whole process within this context."""
    # Imported here: few models need it.
    import gguf

    class Reader(gguf.GGUFReader):
        def __setattr__(self, name: str, value: Any) -> None:
            # Slicing a memmap takes four times as long as slicing an array, and each word needs two slices.
            super().__setattr__(name, value.view(np.ndarray) if isinstance(value, np.memmap) else value)

    # transformers looks these names up at each call.
    replaced = {"GGUFReader": cache(Reader), "get_tensor_name_map": cache(gguf.get_tensor_name_map)}
    originals = {name: getattr(gguf, name) for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(gguf, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(gguf, name, function)
