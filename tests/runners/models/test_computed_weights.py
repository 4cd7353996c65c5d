"""Promise: a checkpoint may omit weights that its model computes, and no random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.models.computed_weights import find_computed_weights
from runners.models.pretrained import load_pretrained
from runners.storage.checkpoint import Checkpoint
from tests.tiny import save, wordpiece_tokenizer

_TOKENIZER = wordpiece_tokenizer()
_BERT: dict[str, Any] = {
    "vocab_size": len(_TOKENIZER), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
_BART: dict[str, Any] = {
    "vocab_size": len(_TOKENIZER), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2,
    "forced_eos_token_id": 3,
}  # fmt: skip
_DISTILBERT: dict[str, Any] = {
    "vocab_size": len(_TOKENIZER), "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64,
    "max_position_embeddings": 64, "sinusoidal_pos_embds": True,
}  # fmt: skip

#: A model, its config, and the part of the names of weights that it computes.
_COMPUTED = [
    ("PegasusForConditionalGeneration", _BART, "embed_positions"),
    ("MvpForConditionalGeneration", _BART, "final_logits_bias"),
    ("RoFormerForMaskedLM", _BERT, "embed_positions"),
    ("EsmForMaskedLM", {**_BERT, "position_embedding_type": "rotary", "mask_token_id": 4}, "inv_freq"),
    ("DistilBertForMaskedLM", _DISTILBERT, "position_embeddings"),
]


def _checkpoint(folder: Path, name: str, options: dict[str, Any], *without: str) -> tuple[Path, PreTrainedModel]:
    """Save a checkpoint without the weights that have these parts of names; return the model."""
    model_class = getattr(transformers, name)
    save(folder, model_class, model_class.config_class(**options), _TOKENIZER)
    whole = model_class.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not any(part in key for part in without)}
    # Current transformers does not save some of them; other checkpoints may lack them all the same.
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, whole


def _load(folder: Path, name: str) -> PreTrainedModel:
    seq2seq = name.endswith("ForConditionalGeneration")
    task: Any = "text2text-generation" if seq2seq else "fill-mask"
    auto_class = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForMaskedLM
    settings = ModelSettings(storage_uri=str(folder), task=task, acceleration=False)
    return load_pretrained(auto_class, Checkpoint(folder), settings).model


@pytest.mark.parametrize(("name", "options", "computed"), _COMPUTED, ids=[case[0] for case in _COMPUTED])
def test_a_checkpoint_without_computed_weights_is_the_same_model(
    tmp_path: Path, name: str, options: dict[str, Any], computed: str
) -> None:
    folder, whole = _checkpoint(tmp_path, name, options, computed)
    torch.testing.assert_close(_load(folder, name).state_dict(), whole.state_dict())


@pytest.mark.parametrize(("name", "options", "computed"), _COMPUTED, ids=[case[0] for case in _COMPUTED])
def test_missing_random_weights_are_refused_and_named_without_computed_ones(
    tmp_path: Path, name: str, options: dict[str, Any], computed: str
) -> None:
    random = "q_lin.weight" if "DistilBert" in name else "query.weight" if "MaskedLM" in name else "fc1.weight"
    folder, _ = _checkpoint(tmp_path, name, options, computed, random)
    with pytest.raises(LoadError, match="lacks weights") as refused:
        _load(folder, name)
    assert random in str(refused.value)
    assert computed not in str(refused.value)


def test_learned_positions_are_not_treated_as_computed_ones(tmp_path: Path) -> None:
    folder, _ = _checkpoint(tmp_path, "BertForMaskedLM", _BERT, "position_embeddings")
    with pytest.raises(LoadError, match="position_embeddings"):
        _load(folder, "BertForMaskedLM")


def test_the_check_changes_neither_the_model_nor_the_random_state(tmp_path: Path) -> None:
    folder, _ = _checkpoint(tmp_path, "RoFormerForMaskedLM", _BERT, "embed_positions", "query.weight", "query.bias")
    loaded: Any = transformers.RoFormerForMaskedLM.from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    missing = report["missing_keys"]
    # The bias would be zeros, but a layer whose weights are random is missing as a whole.
    assert "roformer.encoder.layer.0.attention.self.query.bias" in missing
    assert find_computed_weights(model, missing) == {"roformer.encoder.embed_positions.weight"}
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert find_computed_weights(model, ["no.such.weight"]) == set()


def test_a_weight_without_initialization_is_not_computed(tmp_path: Path) -> None:
    _, whole = _checkpoint(tmp_path, "BertForMaskedLM", _BERT)
    whole.register_parameter("forgotten", torch.nn.Parameter(torch.zeros(4)))
    assert find_computed_weights(whole, ["forgotten"]) == set()
    assert torch.equal(whole.get_parameter("forgotten"), torch.zeros(4))
