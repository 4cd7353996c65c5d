"""Promise: token classification answers as the pipeline does, alone and in a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForTokenClassification,
    EsmConfig,
    EsmForTokenClassification,
    EsmTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForTokenClassification,
    pipeline,
)

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.token_classification import TokenClassificationRunner
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer

LABELS = dict(enumerate(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]))
STRATEGIES = ["none", "simple", "first", "average", "max"]
TEXTS = [*CORPUS, "Zoë 🙂👍🏽 lives in 東京都, cafe\u0301 n° 5.", "Paris is t\u200bhe capital", "a\tb  c", ""]
LONG = " ".join(CORPUS)
WINDOWED = ["simple", "first", "average", "max"]


#: Untyped in transformers.
_FAST: Any = PreTrainedTokenizerFast
_ESM: Any = EsmTokenizer


def _wordpiece(folder: Path) -> Path:
    tokenizer = wordpiece_tokenizer()
    return save(folder, BertForTokenClassification, bert_config(tokenizer, id2label=LABELS), tokenizer)


def _roberta_tokenizer(add_prefix_space: bool) -> Any:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(CORPUS, trainer)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=add_prefix_space)
    special = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>"}
    return _FAST(
        tokenizer_object=bpe, model_max_length=64, **{f"{name}_token": token for name, token in special.items()}
    )


def _metaspace_tokenizer() -> Any:
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    unigram.train_from_iterator(CORPUS, trainer)
    unigram.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return _FAST(tokenizer_object=unigram, model_max_length=64, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


def _roberta(folder: Path, tokenizer: Any, labels: dict[int, str] = LABELS) -> Path:
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
        initializer_range=0.5,
        id2label=labels,
    )
    return save(folder, RobertaForTokenClassification, config, tokenizer)


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "WordPiece": _wordpiece,
    "byte-level BPE": lambda folder: _roberta(folder, _roberta_tokenizer(add_prefix_space=False)),
    "byte-level BPE with prefix space": lambda folder: _roberta(folder, _roberta_tokenizer(add_prefix_space=True)),
}


@pytest.fixture(scope="module", params=list(CHECKPOINTS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CHECKPOINTS[request.param](tmp_path_factory.mktemp("token-classification"))


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _wordpiece(tmp_path_factory.mktemp("wordpiece"))


@cache
def _runner(folder: Path, **settings: Any) -> TokenClassificationRunner:
    runner = TokenClassificationRunner(ModelSettings(storage_uri=str(folder), task="token-classification", **settings))
    runner.load()
    return runner


@cache
def _oracle(folder: Path) -> Any:
    return pipeline(
        "token-classification",
        model=AutoModelForTokenClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )


def _same(answer: Any, expected: Any) -> None:
    assert [{**entry, "score": None} for entry in answer] == [{**entry, "score": None} for entry in expected]
    assert [entry["score"] for entry in answer] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)


def _but_words(entities: Any) -> Any:
    return [{**entity, "word": None} for entity in entities]


def _values(answer: Any) -> list[Any]:
    return [value for entry in answer for value in entry.values()]


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_answers_each_input_as_the_pipeline_does(folder: Path, strategy: str) -> None:
    runner, oracle = _runner(folder), _oracle(folder)
    for text in TEXTS:
        (answer,) = runner.predict([Item(text, {"aggregation_strategy": strategy, "ignore_labels": []})])
        expected = oracle(text, aggregation_strategy=strategy, ignore_labels=[])
        if strategy in ("first", "average", "max"):
            # The pipeline decodes a decoded text again, which breaks accents; words have their own test.
            answer, expected = _but_words(answer), _but_words(expected)
        _same(answer, expected)
        assert {type(value) for value in _values(answer)} <= {str, float, int, type(None)}


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_a_mixed_batch_answers_each_input_by_its_own_parameters(folder: Path) -> None:
    runner, oracle = _runner(folder), _oracle(folder)
    items = [
        Item(text, {"aggregation_strategy": STRATEGIES[(i + shift) % 5], "ignore_labels": ["O", "PER", "MISC"][:shift]})
        for shift in range(4)
        for i, text in enumerate(CORPUS)
    ]
    items.insert(3, Item(LONG, {"aggregation_strategy": "simple", "stride": 9}))
    for item, answer in zip(items, runner.predict(items), strict=True):
        (alone,) = runner.predict([item])
        _same(answer, alone)
        if "stride" not in item.parameters:
            _same(_but_words(answer), _but_words(oracle(item.instance, **item.parameters)))


@pytest.mark.parametrize("strategy", ["none", "simple", "average"])
def test_a_word_is_the_text_of_its_tokens(wordpiece: Path, strategy: str) -> None:
    (answer,) = _runner(wordpiece).predict([Item(CORPUS[3], {"aggregation_strategy": strategy, "ignore_labels": []})])
    _same(answer, _oracle(wordpiece)(CORPUS[3], aggregation_strategy=strategy, ignore_labels=[]))


@pytest.mark.parametrize("strategy", WINDOWED)
@pytest.mark.parametrize("kind", ["byte-level BPE", "Metaspace"])
def test_words_of_an_entity_keep_accents_and_the_spaces_between_them(tmp_path: Path, kind: str, strategy: str) -> None:
    tokenizer = _metaspace_tokenizer() if kind == "Metaspace" else _roberta_tokenizer(add_prefix_space=False)
    folder = _roberta(tmp_path, tokenizer, {0: "I-X", 1: "I-X"})
    text = "Naïve café, how are you today? The capital of France is Paris."
    (answer,) = _runner(folder).predict([Item(text, {"aggregation_strategy": strategy})])
    assert [(entry["word"], entry["start"], entry["end"]) for entry in answer] == [(text, 0, len(text))]


#: Without a prefix space, which the tokenizer would add at the start of every window.
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("folder", ["WordPiece", "byte-level BPE"], indirect=True)
@pytest.mark.parametrize("stride", [0, 20, 50])
@pytest.mark.parametrize("strategy", WINDOWED)
def test_a_long_input_is_split_into_windows_and_merged_as_in_the_pipeline(
    folder: Path, strategy: str, stride: int
) -> None:
    runner, oracle = _runner(folder), _oracle(folder)
    parameters = {"aggregation_strategy": strategy, "stride": stride}
    items = [Item(LONG, parameters), Item(CORPUS[3], parameters)]
    for item, answer in zip(items, runner.predict(items), strict=True):
        _same(_but_words(answer), _but_words(oracle(item.instance, **parameters)))


def test_windows_are_the_tokenizers_own_and_never_begin_an_entity_with_a_space(folder: Path) -> None:
    runner = _runner(folder)
    item = Item(LONG, {"aggregation_strategy": "simple", "stride": 20})
    cut = AutoTokenizer.from_pretrained(folder)(
        LONG, truncation=True, max_length=64, stride=20, return_overflowing_tokens=True
    )
    assert [row.inputs["input_ids"] for row in runner.prepare_item(item).rows] == cut["input_ids"]
    (answer,) = runner.predict([item])
    assert not any(LONG[entity["start"]].isspace() for entity in answer)


def test_each_window_is_a_row_that_may_share_a_batch(wordpiece: Path) -> None:
    runner = _runner(wordpiece)
    job = runner.prepare_item(Item(LONG, {"aggregation_strategy": "simple", "stride": 10}))
    assert len(job.rows) == 3
    assert all(row.length <= 64 and row.key is None for row in job.rows)
    assert all(set(row.inputs) == {"input_ids", "token_type_ids", "attention_mask"} for row in job.rows)


def test_the_output_of_a_row_holds_neither_padding_nor_the_batch(wordpiece: Path) -> None:
    runner = _runner(wordpiece)
    rows = [runner.prepare_item(Item(text)).rows[0] for text in ("Hello", LONG[:100])]
    for row, output in zip(rows, runner.forward(rows), strict=True):
        assert output.shape == (row.length, len(LABELS))
        assert output.base is None


def test_offsets_are_characters_of_the_original_text(folder: Path) -> None:
    text = "🙂 Zoë 👍🏽 lives in 東京, cafe\u0301, Cupertino."
    for strategy in STRATEGIES:
        (answer,) = _runner(folder).predict([Item(text, {"aggregation_strategy": strategy, "ignore_labels": []})])
        covered = {i for entry in answer for i in range(entry["start"], entry["end"])}
        assert {i for i, letter in enumerate(text) if not letter.isspace()} == covered - {
            i for i, letter in enumerate(text) if letter.isspace()
        }
        if strategy == "none":
            for word in ("Zoë", "東京", "cafe\u0301", "Cupertino"):
                assert text.index(word) in {entry["start"] for entry in answer}
                assert text.index(word) + len(word) in {entry["end"] for entry in answer}


def test_an_input_longer_than_the_model_is_refused_with_both_lengths_unless_truncated(wordpiece: Path) -> None:
    text = "the " * 100
    refused, cut = _runner(wordpiece).predict([Item(text), Item(text, {"truncation": True})])
    assert isinstance(refused, InvalidRequest)
    assert "102 tokens" in refused.message
    assert "context length is 64 tokens" in refused.message
    _same(cut, _oracle(wordpiece)(text))


def test_the_operators_strategy_and_truncation_hold_unless_the_request_overrides_them(wordpiece: Path) -> None:
    runner, oracle = _runner(wordpiece, aggregation_strategy="simple", truncation=True), _oracle(wordpiece)
    text = "the " * 100
    cut, own, windows = runner.predict(
        [Item(text), Item(CORPUS[3], {"aggregation_strategy": "none"}), Item(text, {"stride": 5})]
    )
    _same(cut, oracle(text, aggregation_strategy="simple"))
    _same(own, oracle(CORPUS[3]))
    _same(windows, oracle(text, aggregation_strategy="simple", stride=5))


@pytest.mark.parametrize(
    ("instance", "parameters", "named"),
    [
        (7, {}, "must be a string"),
        ({"text": "a"}, {}, "must be a string"),
        ("a", {"aggregation": "simple"}, "did you mean 'aggregation_strategy'"),
        ("a", {"aggregation_strategy": "mean"}, "parameters.aggregation_strategy"),
        ("a", {"ignore_labels": "O"}, "parameters.ignore_labels"),
        ("a", {"stride": 5}, "parameters.stride"),
        ("a", {"stride": -1, "aggregation_strategy": "simple"}, "parameters.stride"),
        ("a", {"stride": 62, "aggregation_strategy": "simple"}, "parameters.stride: must be less than 62"),
        ("the " * 5000, {"stride": 61, "aggregation_strategy": "simple"}, "parameters.stride: 61 makes 4939 windows"),
    ],
)
def test_a_wrong_instance_or_parameter_is_refused_by_name_and_harms_no_other(
    wordpiece: Path, instance: Any, parameters: dict[str, Any], named: str
) -> None:
    wrong, right = _runner(wordpiece).predict([Item(instance, parameters), Item(CORPUS[0], {"ignore_labels": []})])
    assert isinstance(wrong, InvalidRequest)
    assert named in wrong.message
    assert len(right) > 1


@pytest.fixture
def without_offsets(tmp_path: Path) -> Path:
    """Save a checkpoint whose tokenizer is written in Python and has no token offsets."""
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWC", "<mask>"]))
    config = EsmConfig(
        vocab_size=25,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
        mask_token_id=24,
        id2label=LABELS,
    )
    return save(tmp_path / "model", EsmForTokenClassification, config, _ESM(str(vocabulary)))


def test_a_tokenizer_without_offsets_gives_null_offsets_and_refuses_strategies_that_need_them(
    without_offsets: Path,
) -> None:
    runner, oracle = _runner(without_offsets), _oracle(without_offsets)
    for strategy in ("none", "simple"):
        (answer,) = runner.predict([Item("MKTAYIAK", {"aggregation_strategy": strategy})])
        _same(answer, oracle("MKTAYIAK", aggregation_strategy=strategy))
        assert {entry["start"] for entry in answer} == {None}
    for parameters, named in (
        ({"aggregation_strategy": "first"}, "parameters.aggregation_strategy"),
        ({"aggregation_strategy": "simple", "stride": 2}, "parameters.stride"),
    ):
        (refused,) = runner.predict([Item("MKTAYIAK", parameters)])
        assert isinstance(refused, InvalidRequest)
        assert named in refused.message


def test_a_default_strategy_that_the_tokenizer_cannot_serve_stops_the_start(without_offsets: Path) -> None:
    with pytest.raises(LoadError, match="AGGREGATION_STRATEGY"):
        _runner(without_offsets, aggregation_strategy="first")


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_labels_that_are_missing_or_no_strings_are_answered(tmp_path: Path, strategy: str) -> None:
    labels: Any = {0: 0, 1: None, 2: 2}
    folder = _roberta(tmp_path, _roberta_tokenizer(add_prefix_space=False))
    config = json.loads((folder / "config.json").read_text())
    gap = {number: labels.get(number, "x") for number in range(len(LABELS)) if number != 3}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {**gap, 99: "far"}}))
    runner = _runner(folder)
    (answer,) = runner.predict([Item(CORPUS[3], {"aggregation_strategy": strategy, "ignore_labels": []})])
    assert answer
    found = {entry["entity" if strategy == "none" else "entity_group"] for entry in answer}
    assert {str(label) for label in found} <= {"0", "LABEL_1", "2", "LABEL_3", "x"}
