"""Promises of eight bits: near the full precision, and no text's answer moved by its company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from acceleration.instructions import computes_int8
from acceleration.int8 import Int8Linear
from acceleration.linear import weight_and_bias
from loading import LoadError
from loading import pretrained as loading_pretrained
from loading.pretrained import load_pretrained
from loading.storage import fetch
from settings import ModelSettings
from tests.tiny import bert_config, save, wordpiece_tokenizer

needs_vnni = pytest.mark.skipif(not computes_int8(), reason="this CPU has no VNNI")


@needs_vnni
@pytest.mark.parametrize("shape", [(64,), (0, 64), (1, 64), (5, 64), (3, 7, 64), (260, 64)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@torch.inference_mode()
def test_eight_bits_move_a_layers_outputs_by_a_hundredth(shape: tuple[int, ...], bias: bool) -> None:
    plain = nn.Linear(64, 48, bias=bias)
    inputs = torch.randn(shape)
    expected, output = plain(inputs), Int8Linear(*weight_and_bias(plain))(inputs)
    assert output.shape == expected.shape
    assert torch.dist(output, expected) <= 0.02 * expected.norm()


@needs_vnni
@torch.inference_mode()
def test_a_token_gets_exactly_what_it_gets_alone_whatever_is_beside_it() -> None:
    layer = Int8Linear(torch.randn(48, 64), torch.randn(48))
    token = torch.randn(1, 64)
    for company in (torch.randn(7, 64), 1000 * torch.randn(30, 64), torch.zeros(2, 64), torch.randn(300, 64).abs()):
        assert torch.equal(layer(torch.cat([token, company]))[:1], layer(token))


@needs_vnni
@torch.inference_mode()
def test_nought_stays_nought() -> None:
    assert not Int8Linear(torch.randn(48, 64), None)(torch.zeros(3, 64)).any()
    assert not Int8Linear(torch.zeros(48, 64), None)(torch.randn(3, 64)).any()


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
def test_a_model_in_eight_bits_answers_nearly_the_same_and_its_head_keeps_its_precision(
    folder: Path, dtype: Any
) -> None:
    ids = torch.tensor([[2, 9, 30, 41, 17, 3]])
    model = _load(folder, quantization="int8", torch_dtype=dtype)
    expected = _load(folder)(ids).logits.softmax(-1)
    assert not isinstance(model.classifier, Int8Linear)
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 4 * model.config.num_hidden_layers + 1
    torch.testing.assert_close(model(ids).logits.softmax(-1).float(), expected, atol=0.02, rtol=0)


def test_eight_bits_are_refused_where_they_cannot_be_computed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_pretrained, "computes_int8", lambda: False)
    with pytest.raises(LoadError, match="needs a CPU with VNNI"):
        _load(folder, quantization="int8")
    with pytest.raises(LoadError, match="is for CPUs"):
        _load(folder, quantization="int8", device_map="cpu")


def test_two_ways_to_quantize_are_a_contradiction() -> None:
    with pytest.raises(ValidationError, match="choose one"):
        ModelSettings(storage_uri="/model", quantization="int8", load_in_8bit=True)
