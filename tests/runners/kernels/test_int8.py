"""Promises of int8: results near float32, and independent of the rest of the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.kernels import int8 as int8_module
from runners.kernels.instructions import supports_int8
from runners.kernels.int8 import Int8Linear, OneDnnInt8Linear, PreciseInt8Linear, VnniInt8Linear, quantize_layers
from runners.kernels.int8_kernels import Int8Kernels
from runners.kernels.linear import get_weight_and_bias
from runners.models import pretrained as loading_pretrained
from runners.models.pretrained import load_pretrained
from runners.storage.fetch import fetch
from tests.runners.kernels.compiled import get_int8_kernels
from tests.tiny import bert_config, save, wordpiece_tokenizer

needs_vnni = pytest.mark.skipif(not supports_int8(), reason="this CPU has no VNNI")
needs_kernels = pytest.mark.skipif(not Int8Kernels.is_supported(), reason="this CPU has no AVX-512 VNNI")


def _create_vnni(weight: torch.Tensor, bias: torch.Tensor | None) -> Int8Linear:
    return VnniInt8Linear(weight, bias, get_int8_kernels())


def _create_precise(weight: torch.Tensor, bias: torch.Tensor | None) -> Int8Linear:
    return PreciseInt8Linear(weight, bias, get_int8_kernels())


forms = pytest.mark.parametrize(
    "form", [OneDnnInt8Linear, *(pytest.param(form, marks=needs_kernels) for form in (_create_vnni, _create_precise))]
)


@needs_vnni
@pytest.mark.parametrize("shape", [(64,), (0, 64), (1, 64), (5, 64), (3, 7, 64), (260, 64)], ids=str)
@pytest.mark.parametrize("outputs", [16, 17, 48, 79, 80, 128, 129])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@forms
@torch.inference_mode()
def test_int8_changes_a_layers_outputs_by_at_most_two_percent(
    form: Any, shape: tuple[int, ...], outputs: int, bias: bool
) -> None:
    plain = nn.Linear(64, outputs, bias=bias)
    inputs = torch.randn(shape)
    expected, output = plain(inputs), form(*get_weight_and_bias(plain))(inputs)
    assert output.shape == expected.shape
    assert torch.dist(output, expected) <= 0.02 * expected.norm()


@needs_vnni
@forms
@torch.inference_mode()
def test_a_tokens_output_does_not_depend_on_the_rest_of_its_batch(form: Any) -> None:
    layer = form(torch.randn(48, 64), torch.randn(48))
    token = torch.randn(1, 64)
    for others in (torch.randn(7, 64), 1000 * torch.randn(30, 64), torch.zeros(2, 64), torch.randn(300, 64).abs()):
        assert torch.equal(layer(torch.cat([token, others]))[:1], layer(token))


@needs_vnni
@forms
@torch.inference_mode()
def test_transposed_layers_of_gpt2_are_quantized(form: Any) -> None:
    plain = Conv1D(96, 64)  # type: ignore[no-untyped-call]
    inputs = torch.randn(5, 64)
    expected = plain(inputs)
    assert torch.dist(form(*get_weight_and_bias(plain))(inputs), expected) <= 0.02 * expected.norm()


@needs_vnni
@forms
@torch.inference_mode()
def test_zeros_stay_zeros(form: Any) -> None:
    assert not form(torch.randn(48, 64), None)(torch.zeros(3, 64)).any()
    assert not form(torch.zeros(48, 64), None)(torch.randn(3, 64)).any()


@needs_kernels
@torch.inference_mode()
def test_both_int8_forms_agree_with_any_number_of_threads_and_blocks() -> None:
    weight, bias = torch.randn(112, 4096), torch.randn(112)
    inputs = torch.randn(700, 4096)  # more than a block
    right = OneDnnInt8Linear(weight, bias)(inputs)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            # A value halfway between two integers may be rounded to either.
            torch.testing.assert_close(_create_vnni(weight, bias)(inputs), right, atol=0.2, rtol=0)
    finally:
        torch.set_num_threads(before)


@needs_kernels
@torch.inference_mode()
def test_the_largest_int8_sums_do_not_overflow() -> None:
    ones = torch.ones(16, 16384)
    for inputs in (ones, -ones):
        torch.testing.assert_close(_create_vnni(ones, None)(inputs), inputs @ ones.t(), rtol=1e-3, atol=0)


@needs_vnni
@forms
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@torch.inference_mode()
def test_a_token_with_nan_or_inf_affects_only_its_own_output(form: Any, number: float) -> None:
    layer = form(torch.randn(48, 64), torch.randn(48))
    inputs = torch.randn(3, 64)
    right = layer(inputs)
    inputs[1, 7] = number
    output = layer(inputs)
    assert not output[1].isfinite().any()
    assert torch.equal(output[[0, 2]], right[[0, 2]])


@needs_kernels
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@torch.inference_mode()
def test_a_precise_layer_only_rounds_its_weights(bias: bool) -> None:
    weight, inputs, added = torch.randn(48, 256), torch.randn(9, 256), torch.randn(48) if bias else None
    inputs[2, 5] = 100
    unit = weight.abs().amax(1, keepdim=True) / 127
    right = nn.functional.linear(inputs, (weight / unit).round() * unit, added)
    assert torch.dist(_create_precise(weight, added)(inputs), right) <= 3e-4 * right.norm()
    assert torch.dist(_create_vnni(weight, added)(inputs), right) >= 3e-3 * right.norm()


@needs_kernels
@torch.inference_mode()
def test_a_language_models_head_becomes_a_precise_layer() -> None:
    config = LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    model: Any = LlamaForCausalLM(config)
    ids = torch.arange(3, 20)[None]
    expected = model(ids).logits
    assert quantize_layers(model, (1, 16), get_int8_kernels()) == 7
    assert type(model.lm_head) is PreciseInt8Linear
    assert torch.dist(model(ids).logits, expected) <= 0.03 * expected.norm()


@needs_kernels
@torch.inference_mode()
def test_inputs_may_have_any_strides() -> None:
    layer = _create_vnni(torch.randn(48, 64), None)
    for inputs in (torch.randn(64, 5).t(), torch.randn(5, 128)[:, ::2], torch.randn(5, 128)[:, 64:]):
        torch.testing.assert_close(layer(inputs), layer(inputs.contiguous()))


@needs_kernels
@pytest.mark.parametrize("form", [OneDnnInt8Linear, VnniInt8Linear])
@torch.inference_mode()
def test_layers_get_the_fastest_form_and_unsupported_shapes_get_onednn(
    monkeypatch: pytest.MonkeyPatch, form: type[Int8Linear]
) -> None:
    def pick_form(tried: Any, rows: Any, factor: float) -> Any:
        assert factor > 1
        assert {type(layer) for layers in tried.values() for layer in layers} == {OneDnnInt8Linear, VnniInt8Linear}
        return next(kind for kind, (layer, *_) in tried.items() if type(layer) is form)

    monkeypatch.setattr(int8_module, "pick_fastest", pick_form)
    model = BertForSequenceClassification(bert_config(wordpiece_tokenizer(), hidden_size=32, intermediate_size=52))
    assert Int8Kernels.fits(32, 52)
    assert not Int8Kernels.fits(52, 32)
    assert quantize_layers(model, (1, 16), get_int8_kernels())
    layer: Any = model.bert.encoder.layer[0]
    assert type(layer.attention.output.dense) is type(layer.output.dense) is form
    assert type(layer.intermediate.dense) is OneDnnInt8Linear


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = wordpiece_tokenizer()
    config = bert_config(tokenizer, num_labels=3, hidden_size=128, intermediate_size=256)
    return save(tmp_path_factory.mktemp("model"), BertForSequenceClassification, config, tokenizer)


def _load(folder: Path, **options: Any) -> Any:
    settings = ModelSettings(storage_uri=str(folder), task="text-classification", **options)
    return load_pretrained(AutoModelForSequenceClassification, fetch(settings), settings).model


@needs_vnni
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.inference_mode()
def test_an_int8_classifier_answers_nearly_the_same_and_its_head_is_not_quantized(folder: Path, dtype: Any) -> None:
    ids = torch.tensor([[2, 9, 30, 41, 17, 3]])
    model = _load(folder, quantization="int8", torch_dtype=dtype)
    expected = _load(folder)(ids).logits.softmax(-1)
    assert not isinstance(model.classifier, Int8Linear)
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 4 * model.config.num_hidden_layers + 1
    torch.testing.assert_close(model(ids).logits.softmax(-1).float(), expected, atol=0.02, rtol=0)


def test_int8_is_refused_on_unsupported_hardware(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_pretrained, "supports_int8", lambda: False)
    with pytest.raises(LoadError, match="needs a CPU with VNNI"):
        _load(folder, quantization="int8")
    with pytest.raises(LoadError, match="is for CPUs"):
        _load(folder, quantization="int8", device_map="cpu")


def test_two_quantization_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="choose one"):
        ModelSettings(storage_uri="/model", quantization="int8", load_in_8bit=True)
