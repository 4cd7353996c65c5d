"""Promise: other rows change no answer, even of models that depend on padding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import BertForSequenceClassification, FNetConfig, FNetForSequenceClassification

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.rows import Row
from runners.kernels.batch_graphs import BatchGraphs
from runners.tasks.text_classification import TextClassificationRunner
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer


def _warm(folder: Path) -> TextClassificationRunner:
    runner = TextClassificationRunner(ModelSettings(storage_uri=str(folder), task="text-classification"))
    runner.load()
    runner.warm_up()
    return runner


def test_a_model_that_depends_on_padding_gets_batches_of_one_length(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer()
    config = FNetConfig(  # type: ignore[call-arg]
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, initializer_range=0.5, num_labels=4,
    )  # fmt: skip
    runner = _warm(save(tmp_path, FNetForSequenceClassification, config, tokenizer))
    together = runner.predict([Item(text, {"top_k": None}) for text in CORPUS])
    for text, answer in zip(CORPUS, together, strict=True):
        (alone,) = runner.predict([Item(text, {"top_k": None})])
        assert [entry["score"] for entry in answer] == pytest.approx([entry["score"] for entry in alone], abs=1e-5)


def test_any_other_model_batches_inputs_of_all_lengths(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer()
    runner = _warm(save(tmp_path, BertForSequenceClassification, bert_config(tokenizer), tokenizer))
    rows: list[Row[Mapping[str, list[int]]]] = [row for text in CORPUS for row in runner.prepare_item(Item(text)).rows]
    assert {row.key for row in rows} == {None}


class _LargerShapes:
    """Replacement for graphs: batches in fixed shapes, all outputs in the same memory."""

    input_names = frozenset({"input_ids", "attention_mask", "token_type_ids"})

    def __init__(self, model: Any) -> None:
        self._model = model
        self.computed: list[tuple[int, ...]] = []

    def find_shape(self, rows: int, length: int) -> tuple[int, int] | None:
        return (4, 32) if rows <= 4 and length <= 32 else None

    def compute(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        self.computed += {tuple(tensor.shape) for tensor in inputs.values()}
        return self._model(**{name: tensor.to(self._model.device) for name, tensor in inputs.items()})


def test_batches_padded_to_a_larger_shape_get_the_same_answers(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer()
    runner = _warm(save(tmp_path, BertForSequenceClassification, bert_config(tokenizer), tokenizer))
    texts = [Item(text, {"top_k": None}) for text in CORPUS[:3]]
    expected = runner.predict(texts)
    graphs = _LargerShapes(runner.pretrained.model)
    runner.padded.graphs = cast(BatchGraphs, graphs)
    for answer, right in zip(runner.predict(texts), expected, strict=True):
        assert [entry["label"] for entry in answer] == [entry["label"] for entry in right]
        assert [entry["score"] for entry in answer] == pytest.approx([entry["score"] for entry in right], abs=1e-5)
    assert set(graphs.computed) == {(4, 32)}
    assert len(runner.predict([Item("a " * 60, {"top_k": None})])) == 1  # no shape is so long
