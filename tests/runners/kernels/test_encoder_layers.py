"""Promise: an encoder's layers as a program compute what the model's own do, or are not used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from hf_runtime.settings import ModelSettings
from runners.kernels import encoder_layers, linear
from runners.kernels.encoder_layers import EncoderProgram
from runners.kernels.host_cpu import supports_tiles
from runners.kernels.instructions import supports_int8
from runners.kernels.packed import Form, OneDnnLinear, PackedLinear, TiledForm, TiledLinear
from runners.models.pretrained import load_pretrained
from runners.storage.fetch import fetch
from tests.tiny import save, wordpiece_tokenizer

pytestmark = pytest.mark.skipif(not supports_tiles(), reason="this CPU has no AVX2")

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96, "num_hidden_layers": 3}
PROGRAMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "BERT": (BertConfig, BertModel, SIZES),
    "BERT with another activation": (BertConfig, BertModel, {**SIZES, "hidden_act": "relu"}),
    "RoBERTa": (RobertaConfig, RobertaModel, {**SIZES, "max_position_embeddings": 130}),
    "DistilBERT": (DistilBertConfig, DistilBertModel, {"dim": 64, "n_heads": 2, "hidden_dim": 96, "n_layers": 3}),
}
LEFT: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "heads that fill no register": (BertConfig, BertModel, {**SIZES, "num_attention_heads": 8}),
    "ALBERT, whose layers are one": (AlbertConfig, AlbertModel, SIZES),
    "what is between layers is asked for": (BertConfig, BertModel, {**SIZES, "output_hidden_states": True}),
}
LENGTHS = (9, 1, 30, 16)


def _load(folder: Path, **options: Any) -> Any:
    settings = ModelSettings(storage_uri=str(folder), task="feature-extraction", **options)
    return load_pretrained(AutoModel, fetch(settings), settings, reads_batches=True).model


def _saved(folder: Path, made: tuple[Any, Any, dict[str, Any]]) -> Path:
    config_class, model_class, options = made
    tokenizer = wordpiece_tokenizer()
    return save(folder, model_class, config_class(vocab_size=len(tokenizer), **options), tokenizer)


def _in_program(model: Any) -> int:
    forwards = [vars(module).get("forward") for module in model.modules()]
    return sum(
        isinstance(f, partial) and isinstance(getattr(f.func, "__self__", None), EncoderProgram) for f in forwards
    )


@torch.inference_mode()
def _outputs(model: Any) -> list[torch.Tensor]:
    """Hidden states of a padded batch, of texts of equal length, and of a text alone."""
    ids, mask = torch.full((len(LENGTHS), max(LENGTHS)), 5), torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.arange(length) % 20 + 5 + row
        mask[row, :length] = 1
    batch = model(input_ids=ids, attention_mask=mask)[0]
    equal = model(input_ids=ids[:, :7] + 1, attention_mask=torch.ones(len(ids), 7, dtype=torch.long))[0]
    alone = model(input_ids=ids[2:3], attention_mask=mask[2:3])[0]
    return [*(row[:length] for row, length in zip(batch, LENGTHS, strict=True)), *equal, *alone]


@pytest.mark.parametrize("form", [TiledLinear, OneDnnLinear])
@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_gives_what_the_model_gives_without_acceleration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, form: type[PackedLinear]
) -> None:
    if form is OneDnnLinear and not OneDnnLinear.supports(torch.float32):
        pytest.skip("this PyTorch does not compute such layers")

    def fastest(_layers: object, _rows: object, tiled: TiledForm | None) -> Form | None:
        return tiled if form is TiledLinear else OneDnnLinear

    monkeypatch.setattr(linear, "_pick_fastest_form", fastest)
    folder = _saved(tmp_path, PROGRAMS[kind])
    model, plain = _load(folder), _load(folder, acceleration=False)
    assert (_in_program(model), _in_program(plain)) == (3, 0)
    assert any(isinstance(module, form) for module in model.modules())
    for output, right in zip(_outputs(model), _outputs(plain), strict=True):
        torch.testing.assert_close(output, right, atol=2e-5, rtol=2e-5)


def test_memory_that_a_thread_gives_back_is_taken_again_by_its_next_batch(tmp_path: Path) -> None:
    settings = ModelSettings(storage_uri=str(_saved(tmp_path, PROGRAMS["BERT"])), task="feature-extraction")
    loaded = load_pretrained(AutoModel, fetch(settings), settings, reads_batches=True)
    assert loaded.program is not None
    before = _outputs(loaded.model)
    mapped = _mapped_bytes()
    loaded.program.free_memory()
    # Rows of hidden states, sums and what is attended, of projections, and of the feed-forward.
    assert mapped - _mapped_bytes() >= encoder_layers.MAX_ROWS * 4 * (3 * 64 + 3 * 64 + 96)
    for output, right in zip(_outputs(loaded.model), before, strict=True):
        torch.testing.assert_close(output, right, atol=0, rtol=0)


def _mapped_bytes() -> int:
    return psutil.Process().memory_info().vms


@pytest.mark.skipif(not supports_int8(), reason="this CPU has no VNNI")
def test_eight_bits_are_a_program_too(tmp_path: Path) -> None:
    folder = _saved(tmp_path, PROGRAMS["BERT"])
    model, plain = _load(folder, quantization="int8"), _load(folder, acceleration=False)
    assert _in_program(model) == 3
    for output, right in zip(_outputs(model), _outputs(plain), strict=True):
        assert torch.dist(output.float(), right) <= 0.1 * right.norm()


@pytest.mark.parametrize("kind", LEFT)
def test_layers_that_compute_something_else_are_left_as_they_are(tmp_path: Path, kind: str) -> None:
    folder = _saved(tmp_path, LEFT[kind])
    model, plain = _load(folder), _load(folder, acceleration=False)
    assert _in_program(model) == 0
    for output, right in zip(_outputs(model), _outputs(plain), strict=True):
        torch.testing.assert_close(output, right, atol=2e-5, rtol=2e-5)


def test_a_program_that_gives_something_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_layers, "_is_gelu", lambda _: True)
    assert _in_program(_load(_saved(tmp_path, PROGRAMS["BERT with another activation"]))) == 0


def test_batches_of_many_tokens_are_computed_by_the_model_s_own_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _load(_saved(tmp_path, PROGRAMS["BERT"]))
    right = _outputs(model)
    monkeypatch.setattr(encoder_layers, "MAX_ROWS", 12)
    for output, expected in zip(_outputs(model), right, strict=True):
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)


def test_threads_compute_side_by_side_and_what_they_gave_stays(tmp_path: Path) -> None:
    model = _load(_saved(tmp_path, PROGRAMS["BERT"]))
    right = _outputs(model)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: _outputs(model), range(30)))
    for result in results:
        for output, expected in zip(result, right, strict=True):
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
