"""Convert a model's weights to the fastest form on the CPU.

The results are verified numerically at load time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from runners.kernels.embedding import count_embedding_rows
from runners.kernels.fallbacks import DifferentResults, Optimization, OptimizationFailed, attempt
from runners.kernels.fused import fuse_modules
from runners.kernels.int8 import quantize_layers
from runners.kernels.linear import choose_forms, pack_layers
from runners.kernels.merged import find_shared_inputs, merge_layers
from runners.kernels.rounding import is_within_rounding

if TYPE_CHECKING:
    from runners.kernels.int8_kernels import Int8Kernels
    from runners.kernels.kernels import Kernels
    from runners.kernels.packed import TiledForm

logger = logging.getLogger(__name__)

#: First id and number of the trial tokens. Any tokens would do, but the first ids are often special.
_FIRST_TOKEN, _TOKEN_COUNT = 5, 8


@torch.inference_mode()
def optimize_weights(
    model: PreTrainedModel,
    *,
    rows: Sequence[int],
    int8: bool = False,
    kernels: Kernels | None = None,
    tiled: TiledForm | None = None,
    int8_kernels: Int8Kernels | None = None,
) -> None:
    """Convert a model's weights to the fastest form on the CPU.

    After each step the model must compute the same results, except for rounding.

    Args:
        rows: the most frequent numbers of tokens in a forward pass.
        int8: compute all linear layers except the head's in int8.
        kernels: kernels for the operations between linear layers.
        tiled: a form of linear layers that is used unless a library's form is clearly faster.
        int8_kernels: kernels for layers in int8.

    Raises:
        OptimizationFailed: a step failed or changed the results, as in models that use weights without calling their
            layers. The model must then be loaded again, unless the step was to compute a trial input.
    """
    with attempt(Optimization.TRIAL):
        groups, expected = find_shared_inputs(model, lambda: _compute_trial_output(model))

    def apply_step(optimization: Optimization, replace: Callable[[], int], *, quantized: bool) -> int:
        with attempt(optimization):
            replaced = replace()
            if replaced and not is_within_rounding(
                [_compute_trial_output(model)], [expected], expected.dtype, int8=quantized
            ):
                raise DifferentResults
        return replaced

    apply_step(Optimization.MERGE, lambda: merge_layers(groups), quantized=False)
    if int8 and not apply_step(Optimization.INT8, lambda: quantize_layers(model, rows, int8_kernels), quantized=True):
        raise OptimizationFailed(Optimization.INT8, "it has no linear layer for int8")
    packed = apply_step(Optimization.PACK, lambda: pack_layers(model, choose_forms(model, rows, tiled)), quantized=int8)
    fused = apply_step(
        Optimization.FUSE, lambda: fuse_modules(model, kernels) if kernels is not None else 0, quantized=int8
    )
    logger.debug("Linear layers packed: %d, modules with kernels: %d", packed, fused)


def _compute_trial_output(model: Any) -> torch.Tensor:
    """Return the model's first output for a few tokens."""
    vocabulary = count_embedding_rows(model) or _FIRST_TOKEN + _TOKEN_COUNT
    tokens = [number % vocabulary for number in range(_FIRST_TOKEN, _FIRST_TOKEN + _TOKEN_COUNT)]
    # Some classifiers use the output at the end token.
    end = model.config.eos_token_id
    tokens += [end] if isinstance(end, int) and 0 <= end < vocabulary else []
    ids = torch.tensor([tokens])
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder and hasattr(model, "get_decoder"):
        inputs["decoder_input_ids"] = ids
    output: torch.Tensor = model(**inputs)[0]
    return output
