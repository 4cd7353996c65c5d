"""Promise: feature extraction gives the pipeline's token vectors or the model's own vector."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BartConfig,
    BartModel,
    BertModel,
    T5Config,
    T5EncoderModel,
    T5Model,
    pipeline,
)

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.feature_extraction import FeatureExtractionRunner
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer

POOLING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda tokens: tokens.mean(0),
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(0).values,
    "last_token": lambda tokens: tokens[-1],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("feature-extraction"))


def _checkpoint(folder: Path) -> Path:
    tokenizer = wordpiece_tokenizer()
    return save(folder, BertModel, bert_config(tokenizer), tokenizer)


def _sentence_model(folder: Path, *more: str, pooling: str = "max", **reading: Any) -> Path:
    """Save a checkpoint with sentence-transformers' files: pooling, then the named modules."""
    _checkpoint(folder)
    modules = [
        {"path": "" if name == "Transformer" else name, "type": f"sentence_transformers.models.{name}"}
        for name in ("Transformer", "Pooling", *more)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir()
    (folder / "Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    (folder / "sentence_bert_config.json").write_text(json.dumps(reading))
    return folder


def _runner(folder: Path, **settings: Any) -> FeatureExtractionRunner:
    runner = FeatureExtractionRunner(ModelSettings(storage_uri=str(folder), task="feature-extraction", **settings))
    runner.load()
    return runner


def _answer(runner: FeatureExtractionRunner, text: str, **parameters: Any) -> Any:
    (answer,) = runner.predict([Item(text, parameters)])
    return answer


def _oracle(folder: Path) -> Callable[..., torch.Tensor]:
    """Compute vectors (tokens, hidden) of a text by plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)

    @torch.inference_mode()
    def tokens(text: str, **options: Any) -> torch.Tensor:
        states: torch.Tensor = model(**tokenizer(text, return_tensors="pt", **options)).last_hidden_state
        return states[0]

    return tokens


def _same(answer: Any, expected: torch.Tensor) -> None:
    assert answer.dtype == np.float32
    assert answer.shape == tuple(expected.shape)
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)


def _unit(vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vector, dim=0)


def test_token_vectors_are_the_pipelines_alone_and_in_a_batch(folder: Path) -> None:
    oracle: Any = pipeline(
        "feature-extraction",
        model=AutoModel.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )
    runner = _runner(folder)
    for text, answer in zip(CORPUS, runner.predict([Item(text) for text in CORPUS]), strict=True):
        _same(answer, oracle(text, return_tensors=True))
    _same(_answer(runner, CORPUS[0]), oracle(CORPUS[0], return_tensors=True))


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_uses_an_inputs_own_tokens_and_no_padding(folder: Path, pooling: str, normalize: bool) -> None:
    items = [Item(text, {"pooling": pooling, "normalize": normalize}) for text in CORPUS]
    oracle = _oracle(folder)
    for text, answer in zip(CORPUS, _runner(folder).predict(items), strict=True):
        vector = POOLING[pooling](oracle(text))
        _same(answer, _unit(vector) if normalize else vector)


def test_items_of_different_parameters_do_not_disturb_each_other(folder: Path) -> None:
    runner = _runner(folder)
    choices: list[dict[str, Any]] = [{}, *({"pooling": pooling} for pooling in POOLING), {"pooling": "none"}]
    items = [Item(text, choice) for text in CORPUS for choice in [*choices, {"pooling": "mean", "normalize": True}]]
    for item, answer in zip(items, runner.predict(items), strict=True):
        np.testing.assert_allclose(answer, _answer(runner, item.instance, **item.parameters), atol=1e-5)


def test_outputs_do_not_keep_the_batch_alive(folder: Path) -> None:
    runner = _runner(folder)
    jobs = [runner.prepare_item(Item(text)) for text in CORPUS]
    for job, output in zip(jobs, runner.forward([job.rows[0] for job in jobs]), strict=True):
        assert output.base is None
        assert output.shape == (job.rows[0].length, 32)


def test_a_sentence_model_gives_its_own_embedding(tmp_path: Path) -> None:
    folder = _sentence_model(tmp_path, "Normalize")
    runner = _runner(folder)
    vector = _oracle(folder)(CORPUS[0]).max(0).values
    _same(_answer(runner, CORPUS[0]), _unit(vector))
    _same(_answer(runner, CORPUS[0], normalize=False), vector)
    runner.warm_up()


def test_a_request_wins_over_the_operator_and_the_operator_over_the_model(tmp_path: Path) -> None:
    folder = _sentence_model(tmp_path, "Normalize")
    tokens = _oracle(folder)(CORPUS[0])
    operated = _runner(folder, pooling="cls", normalize=False)
    _same(_answer(operated, CORPUS[0]), tokens[0])
    _same(_answer(operated, CORPUS[0], pooling="mean", normalize=True), _unit(tokens.mean(0)))
    _same(_answer(operated, CORPUS[0], pooling="none"), tokens[None])
    _same(_answer(_runner(folder, pooling="none"), CORPUS[0]), tokens[None])
    _same(_answer(_runner(folder), CORPUS[0], pooling="cls"), _unit(tokens[0]))


def test_an_unsupported_embedding_is_refused_unless_pooling_is_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _sentence_model(tmp_path, "Dense", "Normalize")
    with pytest.raises(LoadError, match=r"modules Transformer \+ Pooling \+ Dense \+ Normalize.* or set POOLING"):
        _runner(folder)
    with caplog.at_level(logging.WARNING, "runners"):
        runner = _runner(folder, pooling="mean")
    assert "Dense" in caplog.text
    _same(_answer(runner, CORPUS[0]), _oracle(folder)(CORPUS[0]).mean(0))


def test_normalize_without_pooling_is_a_warning_at_load(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "runners"):
        runner = _runner(folder, normalize=True)
    assert "NORMALIZE has no effect" in caplog.text
    _same(_answer(runner, CORPUS[0]), _oracle(folder)(CORPUS[0])[None])


def test_the_models_prompt_and_lower_case_apply_only_to_its_sentence_embedding(tmp_path: Path) -> None:
    folder = _sentence_model(tmp_path, pooling="mean", do_lower_case=True)
    general = {"prompts": {"passage": "The film: "}, "default_prompt_name": "passage"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(general))
    runner, oracle = _runner(folder), _oracle(folder)
    _same(_answer(runner, "HELLO world"), oracle("the film: hello world").mean(0))
    _same(_answer(runner, "HELLO world", pooling="none"), oracle("hello world")[None])


def test_token_ids_are_used_unchanged_and_details_count_them(folder: Path) -> None:
    runner = _runner(folder)
    ids = runner.pretrained.tokenizer(CORPUS[0])["input_ids"]
    text, tokens = runner.predict([Item(given, {"pooling": "mean", "details": True}) for given in (CORPUS[0], ids)])
    assert text["prompt_tokens"] == tokens["prompt_tokens"] == len(ids)
    _same(tokens["embedding"], torch.tensor(text["embedding"]))


@pytest.mark.parametrize("settings", [{}, {"matryoshka": True}])
def test_a_matryoshka_model_gives_the_first_dimensions_normalized(tmp_path: Path, settings: dict[str, Any]) -> None:
    _checkpoint(tmp_path)
    if not settings:
        config = tmp_path / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "matryoshka_dimensions": [8, 16]}))
    runner = _runner(tmp_path, **settings)
    full = torch.tensor(_answer(runner, CORPUS[0], pooling="mean"))
    _same(_answer(runner, CORPUS[0], pooling="mean", normalize=True, dimensions=8), _unit(full[:8]))
    refused = _answer(runner, CORPUS[0], pooling="mean", dimensions=33)
    assert isinstance(refused, InvalidRequest)
    assert "parameters.dimensions: 33 given" in refused.message


@pytest.mark.parametrize(("reading", "limit"), [({}, 64), ({"max_seq_length": 16}, 16), ({"max_seq_length": 512}, 64)])
def test_an_input_longer_than_the_model_is_refused_with_both_lengths_unless_truncated(
    tmp_path: Path, reading: dict[str, int], limit: int
) -> None:
    folder = _sentence_model(tmp_path, pooling="mean", **reading)
    runner, text = _runner(folder), "the film " * 50
    refused = _answer(runner, text)
    assert isinstance(refused, InvalidRequest)
    assert "152 tokens" in refused.message
    assert f"maximum context length is {limit} tokens" in refused.message
    expected = _oracle(folder)(text, truncation=True, max_length=limit).mean(0)
    _same(_answer(runner, text, truncation=True), expected)
    _same(_answer(_runner(folder, truncation=True), text), expected)


@pytest.mark.parametrize("kind", ["t5", "t5 encoder", "bart"])
def test_only_the_encoder_of_an_encoder_decoder_is_computed(tmp_path: Path, kind: str) -> None:
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if kind == "bart":
        config: Any = BartConfig(
            vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        )  # fmt: skip
    else:
        config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    model_class: Any = {"t5": T5Model, "t5 encoder": T5EncoderModel, "bart": BartModel}[kind]
    folder = save(tmp_path, model_class, config, tokenizer)
    runner = _runner(folder)
    answers = runner.predict([Item(text, {"pooling": "mean"}) for text in CORPUS])
    encoder = model_class.from_pretrained(folder).get_encoder()
    with torch.inference_mode():
        for text, answer in zip(CORPUS, answers, strict=True):
            states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            _same(answer, states.mean(0))
    assert not any("decoder" in name for name, _ in runner.pretrained.model.named_parameters())


@pytest.mark.parametrize(
    ("instance", "parameters", "named"),
    [
        (7, {}, "must be a string"),
        (["a"], {}, "[0]: must be a token of the model"),
        ([], {}, "the text is empty"),
        ("a", {"pooling": "mean", "dimensions": 16}, "parameters.dimensions: this model's vectors have 32"),
        ("a", {"dimensions": 32}, "parameters.dimensions: only the vector of a text"),
        ("a", {"details": True}, "parameters.details: this model gives a vector for each token"),
        ("a", {"pool": "mean"}, "did you mean 'pooling'"),
        ("a", {"pooling": "sum"}, "parameters.pooling"),
        ("a", {"pooling": "mean", "normalize": "yes"}, "parameters.normalize"),
        ("a", {"normalize": True}, "parameters.normalize: the vectors of tokens are not normalized"),
        ("a", {"pooling": "none", "normalize": True}, "parameters.normalize: the vectors of tokens"),
        ("a", {"truncation": 1}, "parameters.truncation"),
    ],
)
def test_a_wrong_instance_or_parameter_is_refused_by_name_and_harms_no_other(
    folder: Path, instance: Any, parameters: dict[str, Any], named: str
) -> None:
    wrong, right = _runner(folder).predict([Item(instance, parameters), Item(CORPUS[0])])
    assert isinstance(wrong, InvalidRequest)
    assert named in wrong.message
    assert right.shape[2] == 32


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_the_first_tokens_of_an_input_can_be_kept(tmp_path: Path, kind: str) -> None:
    tokenizer = wordpiece_tokenizer(64)
    save(tmp_path, BertModel, bert_config(tokenizer), tokenizer)
    settings = ModelSettings(storage_uri=str(tmp_path), task="feature-extraction", pooling="mean")
    runner = FeatureExtractionRunner(settings)
    runner.load()
    text = CORPUS[0]
    whole: list[int] = tokenizer(text)["input_ids"]
    cut: list[int] = tokenizer(text, truncation=True, max_length=5)["input_ids"] if kind == "text" else whole[:5]
    instance: Any = text if kind == "text" else whole
    options = {"details": True}
    kept, expected, least, most, refused = runner.predict(
        [
            Item(instance, {**options, "truncate_prompt_tokens": 5}),
            Item(cut, options),
            Item(instance, {**options, "truncate_prompt_tokens": -1}),
            Item(instance, {**options, "truncate_prompt_tokens": 10**6}),
            Item(instance, {**options, "truncate_prompt_tokens": 1}),
        ]
    )
    assert kept["prompt_tokens"] == 5
    assert np.allclose(kept["embedding"], expected["embedding"], atol=1e-5)
    assert least["prompt_tokens"] == most["prompt_tokens"] == len(whole)
    assert isinstance(refused, InvalidRequest)
    assert refused.field == "parameters.truncate_prompt_tokens"
