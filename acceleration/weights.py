"""Whether a model computes the same with its weights in another form; seen by trying, not by its name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from acceleration.fused import fuse
from acceleration.int8 import quantize
from acceleration.linear import forms_to_pack, pack
from acceleration.merged import groups_of_same_input, merge
from acceleration.rounding import is_rounding

if TYPE_CHECKING:
    from acceleration.int8_kernels import Int8Kernels
    from acceleration.kernels import Kernels
    from acceleration.packed import Tiled

logger = logging.getLogger(__name__)

#: Any tokens will do; the first ones are often special.
_FIRST, _LENGTH = 5, 8


@torch.inference_mode()
def faster_weights(
    model: PreTrainedModel,
    *,
    rows: Sequence[int],
    int8: bool = False,
    kernels: Kernels | None = None,
    tiled: Tiled | None = None,
    int8_kernels: Int8Kernels | None = None,
) -> bool:
    """Put a model's weights into the form that the CPU computes fastest with.

    Args:
        rows: numbers of tokens that will be computed together most.
        int8: compute all linear layers but those of the head in eight bits.
        kernels: for what the model computes between linear layers.
        tiled: a form of linear layers that is taken unless one of libraries is clearly faster.
        int8_kernels: for layers in eight bits.

    Returns:
        Whether it then gives the same output. If not, it is of no use any more: some models read weights past their
        layers.
    """
    try:
        groups, expected = groups_of_same_input(model, lambda: _output(model))
    except Exception:
        logger.debug("the model does not compute a plain input: its weights stay as they are", exc_info=True)
        return not int8
    merge(groups)
    quantized = quantize(model, rows, int8_kernels) if int8 else 0
    if int8 and not quantized:
        return False
    packed = pack(model, forms_to_pack(model, rows, tiled))
    fused = fuse(model, kernels) if kernels is not None else 0
    logger.debug("%d layers are packed, %d modules compute with kernels", packed, fused)
    if not groups and not quantized and not packed and not fused:
        return True
    try:
        output = _output(model)
    except Exception:
        logger.debug("the model does not compute with its weights in another form", exc_info=True)
        return False
    return is_rounding([output], [expected], expected.dtype, int8=int8)


def _output(model: Any) -> torch.Tensor:
    """The model's first output for a few tokens."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = [number % vocabulary for number in range(_FIRST, _FIRST + _LENGTH)]
    # Some classifiers read the text at its end.
    end = model.config.eos_token_id
    tokens += [end] if isinstance(end, int) and 0 <= end < vocabulary else []
    ids = torch.tensor([tokens])
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder and hasattr(model, "get_decoder"):
        inputs["decoder_input_ids"] = ids
    output: torch.Tensor = model(**inputs)[0]
    return output
