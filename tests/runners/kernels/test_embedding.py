"""Promise: an embedding that shares its table with the output head stores it once and computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from runners.kernels import linear
from runners.kernels.embedding import TiledEmbedding
from runners.kernels.host_cpu import supports_tiles
from runners.kernels.packed import Form, TiledForm
from runners.kernels.weights import optimize_weights
from tests.runners.kernels.compiled import get_float32_kernels

pytestmark = pytest.mark.skipif(not supports_tiles(), reason="this CPU has no AVX2")


class _Scaled(nn.Embedding):
    """Embedding with a factor, as in Gemma 3."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # its name in torch
        return 3 * super().forward(input)


@pytest.fixture(autouse=True)
def _always_choose_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose_tiles(_layers: object, _rows: object, tiled: TiledForm) -> Form:
        return tiled

    monkeypatch.setattr(linear, "_pick_fastest_form", choose_tiles)


def _create_model(vocabulary: int = 112, **options: Any) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        **options,
    )
    return LlamaForCausalLM(config)


def _optimize(model: Any) -> None:
    optimize_weights(model, rows=(1, 16), tiled=TiledForm(get_float32_kernels()))


def _count_stored_values(model: Any) -> int:
    """Count the values of all tensors, shared memory once."""
    storages = {one.untyped_storage().data_ptr(): one for one in (*model.parameters(), *model.buffers())}
    return sum(one.untyped_storage().nbytes() // one.itemsize for one in storages.values())


@pytest.mark.parametrize("vocabulary", [112, 113, 127])
@torch.inference_mode()
def test_a_shared_table_is_stored_once_and_its_rows_are_bit_identical(vocabulary: int) -> None:
    model = _create_model(vocabulary, tie_word_embeddings=True)
    other = _create_model(vocabulary, tie_word_embeddings=False)
    table = model.get_input_embeddings().weight.clone()
    tokens = torch.tensor([[5, vocabulary - 1, 0], [16, 15, 5]])
    expected = model(tokens).logits
    _optimize(model)
    _optimize(other)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, TiledEmbedding)
    assert embeddings.weight.shape == table.shape
    assert torch.equal(embeddings(tokens), table[tokens])
    assert torch.equal(embeddings(tokens[0, 1]), table[vocabulary - 1])
    torch.testing.assert_close(model(tokens).logits, expected, atol=2e-5, rtol=2e-5)
    assert _count_stored_values(other) - _count_stored_values(model) >= table.numel()


@torch.inference_mode()
def test_an_embedding_that_shares_no_weights_is_unchanged() -> None:
    model = _create_model(tie_word_embeddings=False)
    _optimize(model)
    assert type(model.get_input_embeddings()) is nn.Embedding


@torch.inference_mode()
def test_subclasses_of_embedding_are_unchanged() -> None:
    model = _create_model(tie_word_embeddings=True)
    scaled = _Scaled(112, 64)
    scaled.weight = model.lm_head.weight
    model.set_input_embeddings(scaled)
    expected = model(torch.tensor([[5, 6]])).logits
    _optimize(model)
    assert model.get_input_embeddings() is scaled
    torch.testing.assert_close(model(torch.tensor([[5, 6]])).logits, expected, atol=2e-5, rtol=2e-5)
