"""GGUF files, read once.

transformers reads a file's description, all words and merges of its tokenizer among them, three times: for the
tokenizer, the configuration and the weights. It also lists the names of all tensors anew for each module of the model.
On two cores of an AMD EPYC, SmolLM2's tokenizer and model took 31 s to load in place of 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np


@contextmanager
def read_once() -> Iterator[None]:
    """Read each GGUF file once, and as plain memory, in all of the process, as long as this is open."""
    # Imported here: few models are such files.
    import gguf

    class Reader(gguf.GGUFReader):
        def __setattr__(self, name: str, value: Any) -> None:
            # Of the class for mapped files each slice takes four times as long, and each word is two.
            super().__setattr__(name, value.view(np.ndarray) if isinstance(value, np.memmap) else value)

    # transformers looks them up whenever it calls them.
    replaced = {"GGUFReader": cache(Reader), "get_tensor_name_map": cache(gguf.get_tensor_name_map)}
    plain = {name: getattr(gguf, name) for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(gguf, name, function)
        yield
    finally:
        for name, function in plain.items():
            setattr(gguf, name, function)
