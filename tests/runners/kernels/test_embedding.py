"""Promise: a table that a head and embeddings share is kept once, and read as it always was."""

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
from tests.runners.kernels.compiled import float32_kernels

pytestmark = pytest.mark.skipif(not supports_tiles(), reason="this CPU has no AVX2")


class _Scaled(nn.Embedding):
    """As Gemma 3 has it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # its name in torch
        return 3 * super().forward(input)


@pytest.fixture(autouse=True)
def _tiles_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    def fastest(_layers: object, _rows: object, tiled: TiledForm) -> Form:
        return tiled

    monkeypatch.setattr(linear, "_pick_fastest_form", fastest)


def _model(vocabulary: int = 112, **options: Any) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        **options,
    )
    return LlamaForCausalLM(config)


def _speed_up(model: Any) -> None:
    optimize_weights(model, rows=(1, 16), tiled=TiledForm(float32_kernels()))


def _kept(model: Any) -> int:
    """IntArray of all tensors that have memory of their own."""
    storages = {one.untyped_storage().data_ptr(): one for one in (*model.parameters(), *model.buffers())}
    return sum(one.untyped_storage().nbytes() // one.itemsize for one in storages.values())


@pytest.mark.parametrize("vocabulary", [112, 113, 127])
@torch.inference_mode()
def test_a_shared_table_is_kept_once_and_its_rows_are_the_same_to_the_last_bit(vocabulary: int) -> None:
    model = _model(vocabulary, tie_word_embeddings=True)
    other = _model(vocabulary, tie_word_embeddings=False)
    table = model.get_input_embeddings().weight.clone()
    tokens = torch.tensor([[5, vocabulary - 1, 0], [16, 15, 5]])
    expected = model(tokens).logits
    _speed_up(model)
    _speed_up(other)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, TiledEmbedding)
    assert embeddings.weight.shape == table.shape
    assert torch.equal(embeddings(tokens), table[tokens])
    assert torch.equal(embeddings(tokens[0, 1]), table[vocabulary - 1])
    torch.testing.assert_close(model(tokens).logits, expected, atol=2e-5, rtol=2e-5)
    assert _kept(other) - _kept(model) >= table.numel()


@torch.inference_mode()
def test_a_table_of_its_own_stays_as_it_is() -> None:
    model = _model(tie_word_embeddings=False)
    _speed_up(model)
    assert type(model.get_input_embeddings()) is nn.Embedding


@torch.inference_mode()
def test_embeddings_that_compute_something_else_stay_as_they_are() -> None:
    model = _model(tie_word_embeddings=True)
    scaled = _Scaled(112, 64)
    scaled.weight = model.lm_head.weight
    model.set_input_embeddings(scaled)
    expected = model(torch.tensor([[5, 6]])).logits
    _speed_up(model)
    assert model.get_input_embeddings() is scaled
    torch.testing.assert_close(model(torch.tensor([[5, 6]])).logits, expected, atol=2e-5, rtol=2e-5)
