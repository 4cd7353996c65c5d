"""Promises of optimized weights: the same results, or the model is loaded without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertModel,
    DebertaConfig,
    DebertaModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    T5Config,
    T5Model,
)

from hf_runtime.settings import ModelSettings
from runners.kernels import linear
from runners.kernels.fallbacks import Fallbacks, Optimization
from runners.kernels.packed import OneDnnLinear, PackedLinear
from runners.kernels.weights import optimize_weights
from runners.models.pretrained import load_pretrained
from runners.storage.fetch import fetch
from tests.tiny import wordpiece_tokenizer

pytestmark = pytest.mark.skipif(not OneDnnLinear.supports(torch.float32), reason="this PyTorch has no oneDNN")

_BERT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
}


@pytest.fixture(autouse=True)
def _always_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack all layers, although packing gains nothing in such small models."""
    monkeypatch.setattr(linear, "_pick_fastest_form", lambda *_: OneDnnLinear)


def _count_packed(model: PreTrainedModel) -> int:
    return sum(isinstance(module, PackedLinear) for module in model.modules())


@pytest.mark.parametrize(
    "model",
    [
        BertModel(BertConfig(**_BERT)),
        GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=99, eos_token_id=1)),
        T5Model(T5Config(d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, vocab_size=99)),
        BartForSequenceClassification(
            BartConfig(
                d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
                encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=99,
            )
        ),
    ],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
@torch.inference_mode()
def test_a_model_with_packed_weights_computes_the_same(model: PreTrainedModel) -> None:
    model.train(False)
    ids = torch.tensor([[7, 8, 9, model.config.eos_token_id or 5]])
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    expected = model(**inputs)[0]
    optimize_weights(model, rows=(1, 16))
    assert _count_packed(model) > 5
    torch.testing.assert_close(model(**inputs)[0], expected, atol=1e-4, rtol=1e-4)


def _save_model(model: PreTrainedModel, folder: Path) -> ModelSettings:
    model.save_pretrained(folder)
    wordpiece_tokenizer().save_pretrained(folder)
    return ModelSettings(storage_uri=str(folder), task="feature-extraction")


@torch.inference_mode()
def test_a_model_that_uses_weights_outside_their_layers_is_loaded_without_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def add_weight_sum(module: BertModel, _inputs: object, output: tuple[torch.Tensor, ...]) -> object:
        layer: Any = module.encoder.layer[0]
        weight = layer.intermediate.dense.weight
        return (output[0] + weight.sum(), *output[1:])

    class UsesWeights(BertModel):  # type: ignore[no-untyped-call]
        def __init__(self, config: BertConfig) -> None:
            super().__init__(config)
            self.register_forward_hook(add_weight_sum)

    settings = _save_model(BertModel(BertConfig(**_BERT)), tmp_path)
    fallbacks = Fallbacks("odd")
    model = load_pretrained(UsesWeights, fetch(settings), settings, fallbacks=fallbacks).model
    assert _count_packed(model) == 0
    assert fallbacks.failed == [Optimization.PACK]
    assert "odd: packing the weights of linear layers failed, so its weights stay as they were loaded" in caplog.text
    assert model(torch.tensor([[7, 8, 9]]))[0].shape == (1, 3, 32)


def test_weights_are_unchanged_without_acceleration(tmp_path: Path) -> None:
    settings = _save_model(BertModel(BertConfig(**_BERT)), tmp_path)
    plain = load_pretrained(AutoModel, fetch(settings), settings.model_copy(update={"acceleration": False})).model
    assert _count_packed(plain) == 0
    assert _count_packed(load_pretrained(AutoModel, fetch(settings), settings).model) == 9


def test_weights_are_unchanged_if_no_other_layout_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_pick_fastest_form", lambda *_: None)
    settings = _save_model(BertModel(BertConfig(**_BERT)), tmp_path)
    assert _count_packed(load_pretrained(AutoModel, fetch(settings), settings).model) == 0


def test_deberta_computes_the_same_although_it_slices_its_weights(tmp_path: Path) -> None:
    config = DebertaConfig(**_BERT, relative_attention=True, pos_att_type=["c2p", "p2c"])
    settings = _save_model(DebertaModel(config), tmp_path)
    ids = torch.tensor([[7, 8, 9]])
    with torch.inference_mode():
        plain = load_pretrained(AutoModel, fetch(settings), settings.model_copy(update={"acceleration": False})).model
        torch.testing.assert_close(
            load_pretrained(AutoModel, fetch(settings), settings).model(ids)[0], plain(ids)[0], atol=1e-4, rtol=1e-4
        )
