"""Promise: the longest accepted input is one that the model computes, and no longer one is."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from runners.models.lengths import find_input_limit, find_output_limit
from tests.tiny import wordpiece_tokenizer

_NO_LIMIT = 10**30
_POSITIONS = 64
_BERT: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": _POSITIONS, "pad_token_id": 0,
}  # fmt: skip
_BART: dict[str, Any] = {
    "vocab_size": 100, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": 2,
}  # fmt: skip
_LED: dict[str, Any] = {**_BART, "max_encoder_position_embeddings": 70, "max_decoder_position_embeddings": 20,
                        "attention_window": 16}  # fmt: skip
_PROPHETNET: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "num_encoder_layers": 1, "num_decoder_layers": 1, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2,
    "max_position_embeddings": _POSITIONS, "pad_token_id": 0, "decoder_start_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _model(name: str, **options: Any) -> PreTrainedModel:
    model_class = getattr(transformers, name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = model_class(model_class.config_class(**options)).eval()
    return model


def _bert2bert(encoder: str, decoder: str) -> PreTrainedModel:
    """Save two encoders with different numbers of positions, the second with a head for text."""
    first = getattr(transformers, f"{encoder}Config")(**{**_BERT, "max_position_embeddings": 40})
    second = getattr(transformers, f"{decoder}Config")(**_BERT, is_decoder=True, add_cross_attention=True)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(first, second)
    model: Any = transformers.EncoderDecoderModel(config=config)
    model.eval()
    return cast("PreTrainedModel", model)


def _limit(model: PreTrainedModel, *, tokenizer: int = _NO_LIMIT, wanted: int | None = None) -> int | None:
    return find_input_limit(model, wordpiece_tokenizer(tokenizer), wanted)


@torch.inference_mode()
def _compute(model: PreTrainedModel, length: int, **inputs: torch.Tensor) -> None:
    model(input_ids=torch.full((1, length), 7), attention_mask=torch.ones(1, length, dtype=torch.long), **inputs)


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        (lambda: _model("BertModel", **_BERT), 64),
        (lambda: _model("RobertaModel", **{**_BERT, "pad_token_id": 1}), 62),
        (lambda: _model("CamembertModel", **{**_BERT, "pad_token_id": 1}), 62),
        (lambda: _model("RoFormerModel", **_BERT), 64),
        (lambda: _model("EsmModel", **_BERT, position_embedding_type="absolute"), 63),
        (lambda: _model("BartForQuestionAnswering", **_BART, max_position_embeddings=_POSITIONS), 64),
        # The decoder reads the input as well.
        (lambda: _model("LEDForQuestionAnswering", **_LED), 20),
    ],
    ids=["BERT", "RoBERTa", "CamemBERT", "RoFormer", "ESM", "BART", "LED"],
)
def test_the_longest_input_is_computed_and_a_longer_one_fails(model: Any, limit: int) -> None:
    loaded = model()
    assert _limit(loaded) == limit
    _compute(loaded, limit)
    with pytest.raises((IndexError, RuntimeError)):
        _compute(loaded, limit + 1)


@pytest.mark.parametrize(
    ("model", "reads", "writes"),
    [
        # 70 positions are four windows of 16 tokens.
        (lambda: _model("LEDForConditionalGeneration", **_LED), 64, 20),
        (lambda: _model("BartForConditionalGeneration", **_BART, max_position_embeddings=_POSITIONS), 64, 64),
        (lambda: _model("PegasusForConditionalGeneration", **_BART, max_position_embeddings=_POSITIONS), 64, 64),
        (lambda: _bert2bert("Bert", "Bert"), 40, 64),
        (lambda: _bert2bert("Roberta", "Roberta"), 39, 63),
        (lambda: _bert2bert("Bert", "Roberta"), 40, 63),
    ],
    ids=["LED", "BART", "Pegasus", "BERT to BERT", "RoBERTa to RoBERTa", "BERT to RoBERTa"],
)
def test_encoder_and_decoder_have_limits_of_their_own(model: Any, reads: int, writes: int) -> None:
    loaded = model()
    assert _limit(loaded) == reads
    assert find_output_limit(loaded) == writes
    written = torch.full((1, writes), 7)
    _compute(loaded, reads, decoder_input_ids=written)
    with pytest.raises((IndexError, RuntimeError)):
        _compute(loaded, reads + 1, decoder_input_ids=written)
    with pytest.raises((IndexError, RuntimeError)):
        _compute(loaded, reads, decoder_input_ids=torch.full((1, writes + 1), 7))


@torch.inference_mode()
def test_prophetnet_generates_as_far_as_the_next_position_allows() -> None:
    model: Any = _model("ProphetNetForConditionalGeneration", **_PROPHETNET)
    assert _limit(model) == 63
    limit = find_output_limit(model)
    assert limit is not None
    text = torch.full((1, 63), 7)
    options = {"max_length": limit, "min_length": limit, "attention_mask": torch.ones_like(text)}
    assert model.generate(text, **options).shape == (1, limit)
    with pytest.raises((IndexError, RuntimeError)):
        model.generate(text, **options | {"max_length": limit + 3, "min_length": limit + 3})


@pytest.mark.parametrize(
    "model",
    [
        lambda: _model("T5ForConditionalGeneration", vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=1,
                       num_heads=4, decoder_start_token_id=0),
        lambda: _model("DebertaV2Model", **_BERT, position_biased_input=False, relative_attention=True,
                       pos_att_type=["p2c", "c2p"]),
        lambda: _model("EsmModel", **_BERT, position_embedding_type="rotary"),
        lambda: _model("XLNetModel", vocab_size=100, d_model=32, n_layer=1, n_head=2, d_inner=64),
    ],
    ids=["T5", "DeBERTa-v2", "ESM", "XLNet"],
)  # fmt: skip
def test_a_model_without_positions_is_bounded_by_its_tokenizer_unless_configured(model: Any) -> None:
    loaded = model()
    assert _limit(loaded) is None
    assert _limit(loaded, tokenizer=48) == 48
    assert _limit(loaded, tokenizer=48, wanted=20) == 20
    assert _limit(loaded, tokenizer=48, wanted=100) == 100
    inputs = {"decoder_input_ids": torch.full((1, 1), 7)} if loaded.config.is_encoder_decoder else {}
    _compute(loaded, 100, **inputs)


def test_positions_bound_the_configured_length() -> None:
    model = _model("BertModel", **_BERT)
    assert _limit(model, tokenizer=48) == 48
    assert _limit(model, tokenizer=48, wanted=50) == 50
    assert _limit(model, tokenizer=48, wanted=100) == 64
