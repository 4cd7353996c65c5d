"""Promise: a program of an encoder's layers computes the same as the layers, or is not used."""

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
UNSUPPORTED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "heads that do not fill registers": (BertConfig, BertModel, {**SIZES, "num_attention_heads": 8}),
    "ALBERT, which shares one layer": (AlbertConfig, AlbertModel, SIZES),
    "hidden states of all layers are returned": (BertConfig, BertModel, {**SIZES, "output_hidden_states": True}),
}
LENGTHS = (9, 1, 30, 16)


def _load(folder: Path, **options: Any) -> Any:
    settings = ModelSettings(storage_uri=str(folder), task="feature-extraction", **options)
    return load_pretrained(AutoModel, fetch(settings), settings, reads_batches=True).model


def _save_model(folder: Path, parts: tuple[Any, Any, dict[str, Any]]) -> Path:
    config_class, model_class, options = parts
    tokenizer = wordpiece_tokenizer()
    return save(folder, model_class, config_class(vocab_size=len(tokenizer), **options), tokenizer)


def _count_program_layers(model: Any) -> int:
    forwards = [vars(module).get("forward") for module in model.modules()]
    return sum(
        isinstance(f, partial) and isinstance(getattr(f.func, "__self__", None), EncoderProgram) for f in forwards
    )


@torch.inference_mode()
def _compute_outputs(model: Any) -> list[torch.Tensor]:
    """Return hidden states of a padded batch, of sequences of equal length, and of a single sequence."""
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
def test_a_program_computes_the_same_as_the_plain_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, form: type[PackedLinear]
) -> None:
    if form is OneDnnLinear and not OneDnnLinear.supports(torch.float32):
        pytest.skip("this PyTorch does not compute such layers")

    def choose_form(_layers: object, _rows: object, tiled: TiledForm | None) -> Form | None:
        return tiled if form is TiledLinear else OneDnnLinear

    monkeypatch.setattr(linear, "_pick_fastest_form", choose_form)
    folder = _save_model(tmp_path, PROGRAMS[kind])
    model, plain = _load(folder), _load(folder, acceleration=False)
    assert (_count_program_layers(model), _count_program_layers(plain)) == (3, 0)
    assert any(isinstance(module, form) for module in model.modules())
    for output, right in zip(_compute_outputs(model), _compute_outputs(plain), strict=True):
        torch.testing.assert_close(output, right, atol=2e-5, rtol=2e-5)


def test_freed_program_memory_is_allocated_again_by_the_next_batch(tmp_path: Path) -> None:
    settings = ModelSettings(storage_uri=str(_save_model(tmp_path, PROGRAMS["BERT"])), task="feature-extraction")
    loaded = load_pretrained(AutoModel, fetch(settings), settings, reads_batches=True)
    assert loaded.program is not None
    before = _compute_outputs(loaded.model)
    mapped = _measure_mapped_bytes()
    loaded.program.free_memory()
    # Rows of hidden states, sums and attention outputs; of projections; and of the feed-forward.
    assert mapped - _measure_mapped_bytes() >= encoder_layers.MAX_ROWS * 4 * (3 * 64 + 3 * 64 + 96)
    for output, right in zip(_compute_outputs(loaded.model), before, strict=True):
        torch.testing.assert_close(output, right, atol=0, rtol=0)


def _measure_mapped_bytes() -> int:
    return psutil.Process().memory_info().vms


@pytest.mark.skipif(not supports_int8(), reason="this CPU has no VNNI")
def test_int8_layers_run_as_a_program(tmp_path: Path) -> None:
    folder = _save_model(tmp_path, PROGRAMS["BERT"])
    model, plain = _load(folder, quantization="int8"), _load(folder, acceleration=False)
    assert _count_program_layers(model) == 3
    for output, right in zip(_compute_outputs(model), _compute_outputs(plain), strict=True):
        assert torch.dist(output.float(), right) <= 0.1 * right.norm()


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_layers_are_unchanged(tmp_path: Path, kind: str) -> None:
    folder = _save_model(tmp_path, UNSUPPORTED[kind])
    model, plain = _load(folder), _load(folder, acceleration=False)
    assert _count_program_layers(model) == 0
    for output, right in zip(_compute_outputs(model), _compute_outputs(plain), strict=True):
        torch.testing.assert_close(output, right, atol=2e-5, rtol=2e-5)


def test_a_program_with_different_results_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_layers, "_is_gelu", lambda _: True)
    assert _count_program_layers(_load(_save_model(tmp_path, PROGRAMS["BERT with another activation"]))) == 0


def test_large_batches_are_computed_by_the_models_own_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _load(_save_model(tmp_path, PROGRAMS["BERT"]))
    right = _compute_outputs(model)
    monkeypatch.setattr(encoder_layers, "MAX_ROWS", 12)
    for output, expected in zip(_compute_outputs(model), right, strict=True):
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)


def test_threads_compute_in_parallel_and_results_are_not_overwritten(tmp_path: Path) -> None:
    model = _load(_save_model(tmp_path, PROGRAMS["BERT"]))
    right = _compute_outputs(model)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: _compute_outputs(model), range(30)))
    for result in results:
        for output, expected in zip(result, right, strict=True):
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
