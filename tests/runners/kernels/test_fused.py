"""Promises of fused modules: a model computes the same, and modules that only look similar are unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.llama import modeling_llama

from runners.kernels import fused
from runners.kernels.fused import fuse_modules
from tests.runners.kernels.compiled import get_kernels

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
LAYERS = SIZES["num_hidden_layers"]

#: Model classes, sizes, and the number of modules that are fused.
MODELS: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "Llama": (LlamaConfig, LlamaForCausalLM, SIZES, 1 + 4 * LAYERS),
    "Qwen3, which normalizes queries and keys": (Qwen3Config, Qwen3ForCausalLM, SIZES, 1 + 6 * LAYERS),
    "Gemma, with factors plus 1 and GELU gates": (GemmaConfig, GemmaForCausalLM, SIZES, 1 + 5 * LAYERS),
    "GLM, which rotates neighbours": (GlmConfig, GlmForCausalLM, SIZES, 1 + 2 * LAYERS),
    "GPT-2, with GELU in eight operations": (
        GPT2Config,
        GPT2LMHeadModel,
        {"vocab_size": 50, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
        2,
    ),
    "T5": (
        T5Config,
        T5ForConditionalGeneration,
        {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        2 + (2 + 3) * 2,
    ),
}


def _create_model(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    config_class, model_class, sizes, _ = MODELS[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**sizes)).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn(len(weight)).mul(0.2).to(dtype))
    return model


def _compute_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, **decoder).logits
    return logits


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("shape", [(1, 9), (3, 9), (2, 200)], ids=["a row", "few rows", "many rows"])
def test_a_fused_model_computes_the_same(kind: str, shape: tuple[int, int]) -> None:
    model = _create_model(kind)
    ids = torch.randint(50, (shape[0], min(shape[1], 64) if kind.startswith("GPT-2") else shape[1]))
    right = _compute_logits(model, ids)
    assert fuse_modules(model, get_kernels(torch.float32)) == MODELS[kind][3]
    torch.testing.assert_close(_compute_logits(model, ids), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_a_fused_model_in_bfloat16_computes_the_same(kind: str) -> None:
    model = _create_model(kind, torch.bfloat16)
    ids = torch.randint(50, (1, 9))
    right = _compute_logits(model, ids)
    # T5 stores some of its weights in float32.
    assert fuse_modules(model, get_kernels(torch.bfloat16)) == MODELS[kind][3]
    torch.testing.assert_close(_compute_logits(model, ids), right, rtol=0.1, atol=0.05 * float(right.abs().max()))


def test_kernels_compute_few_rows_and_pytorch_computes_many(monkeypatch: pytest.MonkeyPatch) -> None:
    module = modeling_llama.LlamaRMSNorm(16)
    assert fuse_modules(module, get_kernels(torch.float32)) == 1
    monkeypatch.setattr(module.forward, "_kernel", lambda *_, **__: pytest.fail("a kernel computes"))
    module(torch.randn(1, fused.MAX_ROWS + 1, 16))
    assert module(torch.empty(1, 0, 16)).shape == (1, 0, 16)
    with pytest.raises(pytest.fail.Exception):
        module(torch.randn(1, fused.MAX_ROWS, 16))


def test_other_models_of_the_same_class_keep_the_original_rotation() -> None:
    rotation = modeling_llama.apply_rotary_pos_emb
    fuse_modules(_create_model("Llama"), get_kernels(torch.float32))
    assert modeling_llama.apply_rotary_pos_emb is rotation
    attention = _create_model("Llama").model.layers[0].self_attn
    assert attention.forward.__func__ is modeling_llama.LlamaAttention.forward


class SimilarLayerNorm(nn.Module):
    """Module with all attributes of an RMS norm that also subtracts the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(16)), 1e-5

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(inputs, (16,), self.weight, None, self.eps)


class SimilarGate(nn.Module):
    """Module with the layers of a gated feed-forward that also multiplies the result."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))
        self.act_fn = nn.SiLU()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        gated: torch.Tensor = self.act_fn(self.gate_proj(inputs)) * self.up_proj(inputs)
        return 1.01 * self.down_proj(gated)  # type: ignore[no-any-return]


def test_similar_modules_that_compute_something_else_are_unchanged() -> None:
    assert fuse_modules(SimilarLayerNorm(), get_kernels(torch.float32)) == 0
    assert fuse_modules(SimilarGate(), get_kernels(torch.float32)) == 0


def test_a_forward_replaced_by_other_code_is_unchanged() -> None:
    norm: Any = modeling_llama.LlamaRMSNorm(16)
    own = norm.forward = norm.forward
    assert fuse_modules(norm, get_kernels(torch.float32)) == 0
    assert norm.forward is own


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, cos, sin: (q.expand(2, -1, -1, -1), k, cos, sin),
        lambda q, k, cos, sin: (q.transpose(1, 2).contiguous().transpose(1, 2).double(), k, cos, sin),
        lambda q, k, cos, sin: (q[..., ::1].contiguous(), k, cos.expand(1, -1, -1), sin.double()),
        lambda q, k, cos, sin: (q, k, cos, sin, 1),
    ],
    ids=["several sequences", "another type", "another type of angles", "an additional argument"],
)
def test_unsupported_inputs_are_rotated_by_the_original_function(change: Any) -> None:
    attention = _create_model("Llama").model.layers[0].self_attn
    fuse_modules(attention, get_kernels(torch.float32))
    rotate = attention.forward.__func__.__globals__["apply_rotary_pos_emb"]
    q, k, cos, sin = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    arguments = change(q, k, cos, sin)
    for rotated, right in zip(rotate(*arguments), modeling_llama.apply_rotary_pos_emb(*arguments), strict=True):
        torch.testing.assert_close(rotated, right)
