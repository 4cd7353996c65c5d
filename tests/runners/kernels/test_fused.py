"""Promises of fused modules: a model computes the same, and those that are like it by name alone are left alone."""

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
from tests.runners.kernels.compiled import kernels_of

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
LAYERS = SIZES["num_hidden_layers"]

#: How many modules of a model are fused.
MODELS: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "Llama": (LlamaConfig, LlamaForCausalLM, SIZES, 1 + 4 * LAYERS),
    "Qwen3, which norms queries and keys": (Qwen3Config, Qwen3ForCausalLM, SIZES, 1 + 6 * LAYERS),
    "Gemma, whose factors are 1 more, and which gates by GELU": (GemmaConfig, GemmaForCausalLM, SIZES, 1 + 5 * LAYERS),
    "GLM, which turns neighbours": (GlmConfig, GlmForCausalLM, SIZES, 1 + 2 * LAYERS),
    "GPT-2, whose GELU is written out": (
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


def _model(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    config_class, model_class, sizes, _ = MODELS[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**sizes)).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn(len(weight)).mul(0.2).to(dtype))
    return model


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, **decoder).logits
    return logits


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("shape", [(1, 9), (3, 9), (2, 200)], ids=["a row", "few rows", "many rows"])
def test_a_model_computes_the_same(kind: str, shape: tuple[int, int]) -> None:
    model = _model(kind)
    ids = torch.randint(50, (shape[0], min(shape[1], 64) if kind.startswith("GPT-2") else shape[1]))
    right = _logits(model, ids)
    assert fuse_modules(model, kernels_of(torch.float32)) == MODELS[kind][3]
    torch.testing.assert_close(_logits(model, ids), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_in_bfloat16_computes_the_same(kind: str) -> None:
    model = _model(kind, torch.bfloat16)
    ids = torch.randint(50, (1, 9))
    right = _logits(model, ids)
    # T5 keeps some of its weights in float32.
    assert fuse_modules(model, kernels_of(torch.bfloat16)) == MODELS[kind][3]
    torch.testing.assert_close(_logits(model, ids), right, rtol=0.1, atol=0.05 * float(right.abs().max()))


def test_kernels_compute_few_rows_and_pytorch_many(monkeypatch: pytest.MonkeyPatch) -> None:
    module = modeling_llama.LlamaRMSNorm(16)
    assert fuse_modules(module, kernels_of(torch.float32)) == 1
    monkeypatch.setattr(module.forward, "_kernel", lambda *_, **__: pytest.fail("a kernel computes"))
    module(torch.randn(1, fused.MAX_ROWS + 1, 16))
    assert module(torch.empty(1, 0, 16)).shape == (1, 0, 16)
    with pytest.raises(pytest.fail.Exception):
        module(torch.randn(1, fused.MAX_ROWS, 16))


def test_another_model_of_the_same_kind_keeps_its_rotation() -> None:
    rotation = modeling_llama.apply_rotary_pos_emb
    fuse_modules(_model("Llama"), kernels_of(torch.float32))
    assert modeling_llama.apply_rotary_pos_emb is rotation
    attention = _model("Llama").model.layers[0].self_attn
    assert attention.forward.__func__ is modeling_llama.LlamaAttention.forward


class LayerNormByAnotherName(nn.Module):
    """Has all that an RMS norm has, and subtracts the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(16)), 1e-5

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(inputs, (16,), self.weight, None, self.eps)


class GateWithMore(nn.Module):
    """Has the layers of a gated feed-forward, and does more with them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))
        self.act_fn = nn.SiLU()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        gated: torch.Tensor = self.act_fn(self.gate_proj(inputs)) * self.up_proj(inputs)
        return 1.01 * self.down_proj(gated)  # type: ignore[no-any-return]


def test_what_looks_the_same_and_computes_something_else_is_left_alone() -> None:
    assert fuse_modules(LayerNormByAnotherName(), kernels_of(torch.float32)) == 0
    assert fuse_modules(GateWithMore(), kernels_of(torch.float32)) == 0


def test_what_somebody_else_has_changed_is_left_alone() -> None:
    norm: Any = modeling_llama.LlamaRMSNorm(16)
    own = norm.forward = norm.forward
    assert fuse_modules(norm, kernels_of(torch.float32)) == 0
    assert norm.forward is own


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, cos, sin: (q.expand(2, -1, -1, -1), k, cos, sin),
        lambda q, k, cos, sin: (q.transpose(1, 2).contiguous().transpose(1, 2).double(), k, cos, sin),
        lambda q, k, cos, sin: (q[..., ::1].contiguous(), k, cos.expand(1, -1, -1), sin.double()),
        lambda q, k, cos, sin: (q, k, cos, sin, 1),
    ],
    ids=["several texts", "another type", "another type of angles", "an argument more"],
)
def test_what_does_not_fit_a_kernel_is_turned_as_ever(change: Any) -> None:
    attention = _model("Llama").model.layers[0].self_attn
    fuse_modules(attention, kernels_of(torch.float32))
    rotate = attention.forward.__func__.__globals__["apply_rotary_pos_emb"]
    q, k, cos, sin = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    given = change(q, k, cos, sin)
    for turned, right in zip(rotate(*given), modeling_llama.apply_rotary_pos_emb(*given), strict=True):
        torch.testing.assert_close(turned, right)
