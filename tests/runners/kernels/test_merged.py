"""Promises of merged layers: they compute the same, and only layers with the same input are merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5Model

from runners.kernels.merged import LinearPart, find_shared_inputs, merge_layers


class _Attention(nn.Module):
    """Three layers; `third` chooses whether the last one has the same input, another, or one changed in place."""

    def __init__(self, third: str = "same") -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 8), nn.Linear(16, 4, bias=False), nn.Linear(16, 4)
        self.third = third

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        outputs = [self.query(states), self.key(states)]
        if self.third == "changed in place":
            states.mul_(2)
        outputs.append(self.value(states + 1 if self.third == "other" else states))
        return torch.cat(outputs, -1)


def _merge(model: nn.Module, inputs: torch.Tensor) -> list[tuple[str, ...]]:
    groups, _ = find_shared_inputs(model, lambda: model(inputs.clone()))
    merge_layers(groups)
    return [names for _, names in groups]


@pytest.mark.parametrize(
    ("third", "names"),
    [("same", ("query", "key", "value")), ("other", ("query", "key")), ("changed in place", ("query", "key"))],
)
@torch.inference_mode()
def test_layers_with_the_same_input_are_merged_and_compute_the_same(third: str, names: tuple[str, ...]) -> None:
    model = _Attention(third)
    first, second = torch.randn(2, 3, 16)
    expected = [model(inputs.clone()) for inputs in (first, second, first)]
    assert _merge(model, first) == [names]
    outputs = [model(inputs.clone()) for inputs in (first, second, first)]
    torch.testing.assert_close(outputs, expected)


@torch.inference_mode()
def test_merged_layers_can_be_called_in_any_order_and_twice() -> None:
    model = _Attention()
    inputs = torch.randn(3, 16)
    expected = model.value(inputs), model.query(inputs)
    _merge(model, inputs)
    for _ in range(2):
        torch.testing.assert_close((model.value(inputs), model.query(inputs)), expected)


@torch.inference_mode()
def test_merged_outputs_are_released_when_returned() -> None:
    model = _Attention()
    _merge(model, torch.randn(3, 16))
    model(torch.randn(3, 16))
    part: Any = model.query
    assert part.merged._last_outputs.outputs == [None, None, None]


def test_a_layer_with_two_parents_is_not_merged() -> None:
    model = nn.ModuleDict({"one": _Attention(), "other": nn.Module()})
    model["other"].key = model["one"].key
    groups, _ = find_shared_inputs(model, lambda: model["one"](torch.randn(3, 16)))
    assert [names for _, names in groups] == [("query", "value")]


_SIZES: Any = {"vocab_size": 99}
_LLAMA: Any = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **_SIZES
)
_T5: Any = T5Config(d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, **_SIZES)


@pytest.mark.parametrize(("model", "parts"), [(LlamaForCausalLM(_LLAMA), 10), (T5Model(_T5), 16)], ids=["Llama", "T5"])
@torch.inference_mode()
def test_decoders_with_merged_layers_compute_the_same(model: Any, parts: int) -> None:
    model.train(False)
    ids = torch.tensor([[7, 8, 9]])
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    groups, expected = find_shared_inputs(model, lambda: model(**inputs)[0])
    merge_layers(groups)
    assert sum(isinstance(module, LinearPart) for module in model.modules()) == parts
    torch.testing.assert_close(model(**inputs)[0], expected, atol=1e-5, rtol=1e-4)
