"""Table of public models with the result of serving each: `python -m tests.public_sizes`.

Every model is served in float32 on this machine. Names, or parts of them, select models.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from tests.public_sizes.checkpoint import make, make_config
from tests.public_sizes.comparison import compare, expect, forget
from tests.public_sizes.models import MODELS, PublicModel

#: Maximal characters of a message in the table.
_MESSAGE = 150


def main(wanted: list[str]) -> None:
    """Print one row per model as soon as its result is known."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    print("| model | task | sizes | right? |\n|---|---|---|---|")
    for model in MODELS:
        if not wanted or any(part in model.hub_id for part in wanted):
            print(f"| {model.hub_id} | {model.task} | {_sizes(make_config(model))} | {_verdict(model)} |", flush=True)
            forget()


def _verdict(model: PublicModel) -> str:
    with TemporaryDirectory() as folder:
        try:
            made = make(model, Path(folder))
            outcome = compare(model, made, "accelerated", expect(model, made))
        except Exception as error:
            lines = str(error).splitlines() or [""]
            return f"{type(error).__name__}: {lines[0]}"[:_MESSAGE].replace("|", "/")
    if outcome.wrong:
        return f"{len(outcome.wrong)} wrong: {outcome.wrong[0]}"[:_MESSAGE].replace("|", "/")
    return f"right, within {outcome.deviation:.0e}"


def _sizes(config: Any) -> str:
    """Describe the sizes that decide which kernels compute."""
    heads, width = config.num_attention_heads, config.hidden_size
    size = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or width // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return f"{config.vocab_size} tokens, {width} wide, {heads} heads ({shared} of keys) of {size}"


if __name__ == "__main__":
    main(sys.argv[1:])
