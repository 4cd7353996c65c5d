"""Promise: question answering finds the spans of an exhaustive search over model outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertForQuestionAnswering,
    EsmTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.question_answering import QuestionAnsweringRunner
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer

LONG = " ".join(CORPUS)
UNICODE = "Zoë 🙂👍🏽 moved to 東京都 and ate cafe\u0301 n° 5 in Unbelievablyland."
#: Untyped in transformers.
_FAST: Any = PreTrainedTokenizerFast
_ESM: Any = EsmTokenizer


def _wordpiece(folder: Path, padding_side: str = "right") -> Path:
    tokenizer = wordpiece_tokenizer()
    tokenizer.padding_side = padding_side
    return save(folder, BertForQuestionAnswering, bert_config(tokenizer), tokenizer)


def _byte_level(folder: Path) -> Path:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    names = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>"}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(names.values()), initial_alphabet=alphabet)
    bpe.train_from_iterator(CORPUS, trainer)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {f"{name}_token": token for name, token in names.items()}
    tokenizer = _FAST(tokenizer_object=bpe, model_max_length=64, **special)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
        initializer_range=0.5,
    )
    return save(folder, RobertaForQuestionAnswering, config, tokenizer)


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "WordPiece": _wordpiece,
    "byte-level BPE": _byte_level,
    "context first": lambda folder: _wordpiece(folder, padding_side="left"),
}


@pytest.fixture(scope="module", params=list(CHECKPOINTS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CHECKPOINTS[request.param](tmp_path_factory.mktemp("question-answering"))


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _wordpiece(tmp_path_factory.mktemp("wordpiece"))


@cache
def _runner(folder: Path) -> QuestionAnsweringRunner:
    runner = QuestionAnsweringRunner(ModelSettings(storage_uri=str(folder), task="question-answering"))
    runner.load()
    return runner


@cache
def _plain(folder: Path) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder).eval()


def _search(
    folder: Path,
    question: str,
    context: str,
    *,
    top_k: int = 1,
    max_answer_len: int = 15,
    max_seq_len: int = 64,
    doc_stride: int = 32,
    handle_impossible_answer: bool = False,
    align_to_words: bool = True,
) -> list[dict[str, Any]]:
    """Score every span of every window, one at a time."""
    tokenizer, model = _plain(folder)
    which = 1 if tokenizer.padding_side == "right" else 0
    pair = (question, context) if which == 1 else (context, question)
    options = {"truncation": "only_second" if which == 1 else "only_first", "max_length": max_seq_len}
    windows = tokenizer(
        *pair, **options, stride=doc_stride, return_overflowing_tokens=True, return_offsets_mapping=True
    )
    whole = tokenizer(*pair, verbose=False)
    best: dict[tuple[int, int], float] = {}
    nulls = []
    for number, ids in enumerate(windows["input_ids"]):
        inputs = {name: torch.tensor([windows[name][number]]) for name in tokenizer.model_input_names}
        with torch.inference_mode():
            output = model(**inputs)
        sides = [output.start_logits[0].tolist(), output.end_logits[0].tolist()]
        inside = [p for p, sequence in enumerate(windows.sequence_ids(number)) if sequence == which]
        allowed = [*inside, ids.index(tokenizer.cls_token_id)]
        start, end = (
            {p: math.exp(logits[p]) / sum(math.exp(logits[q]) for q in allowed) for p in allowed} for logits in sides
        )
        nulls.append(start[allowed[-1]] * end[allowed[-1]])
        spans = [
            (start[first] * end[last], first, last)
            for first in inside
            for last in inside
            if first <= last < first + max_answer_len
        ]
        spans.sort(reverse=True)
        found: dict[tuple[int, int], float] = {}
        for score, first, last in spans[: top_k * 2 + 10 if align_to_words else top_k]:
            if align_to_words:
                left = whole.word_to_chars(windows.token_to_word(number, first), sequence_index=which).start
                right = whole.word_to_chars(windows.token_to_word(number, last), sequence_index=which).end
            else:
                left, right = windows["offset_mapping"][number][first][0], windows["offset_mapping"][number][last][1]
            found[left, right] = found.get((left, right), 0.0) + score
        for span, score in found.items():
            best[span] = max(score, best.get(span, 0.0))
    answers = [{"score": v, "start": a, "end": b, "answer": context[a:b]} for (a, b), v in best.items()]
    if handle_impossible_answer:
        answers.append({"score": min(nulls), "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda answer: -float(str(answer["score"])))[:top_k]


def _item(question: str, context: str, **parameters: Any) -> Item:
    return Item({"question": question, "context": context}, parameters)


def _same(answer: Any, expected: list[dict[str, Any]]) -> None:
    answers = answer if isinstance(answer, list) else [answer]
    assert [list(entry) for entry in answers] == [["score", "start", "end", "answer"]] * len(expected)
    assert [{**entry, "score": None} for entry in answers] == [{**entry, "score": None} for entry in expected]
    assert [entry["score"] for entry in answers] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)
    assert {type(value) for entry in answers for value in entry.values()} <= {float, int, str}


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"top_k": 6},
    {"top_k": 4, "handle_impossible_answer": True},
    {"top_k": 7, "align_to_words": False, "max_answer_len": 3},
    {"max_answer_len": 1},
    {"top_k": 5, "max_seq_len": 40, "doc_stride": 7},
    {"top_k": 3, "max_seq_len": 30, "doc_stride": 0, "handle_impossible_answer": True},
    {"top_k": 3, "max_seq_len": 36, "doc_stride": 15, "align_to_words": False},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda parameters: " ".join(parameters) or "defaults")
def test_answers_are_those_of_an_exhaustive_search(folder: Path, parameters: dict[str, Any]) -> None:
    for context in (CORPUS[3], LONG, UNICODE):
        (answer,) = _runner(folder).predict([_item("Who founded it?", context, **parameters)])
        _same(answer, _search(folder, "Who founded it?", context, **parameters))


def test_a_mixed_batch_answers_each_question_by_its_own_parameters(folder: Path) -> None:
    runner = _runner(folder)
    items = [
        _item(question, context, **PARAMETERS[(i + shift) % len(PARAMETERS)])
        for shift, question in enumerate(("Who?", "Where is 東京?", "What film did you see?"))
        for i, context in enumerate([*CORPUS, LONG])
    ]
    for item, answer in zip(items, runner.predict(items), strict=True):
        _same(answer, _search(folder, **item.instance, **item.parameters))


def test_windows_of_many_items_share_batches(wordpiece: Path) -> None:
    rows = _runner(wordpiece).prepare_item(_item("Who?", LONG, max_seq_len=40, doc_stride=8)).rows
    assert len(rows) > 3
    assert all(row.length == len(row.inputs["input_ids"]) <= 40 and row.key is None for row in rows)
    assert all(set(row.inputs) == {"input_ids", "token_type_ids", "attention_mask"} for row in rows)


def test_the_output_of_a_row_holds_neither_padding_nor_the_batch(wordpiece: Path) -> None:
    runner = _runner(wordpiece)
    rows = [runner.prepare_item(_item("Who?", context)).rows[0] for context in ("Me.", CORPUS[3])]
    for row, output in zip(rows, runner.forward(rows), strict=True):
        assert output.shape == (2, row.length)
        assert output.base is None


def test_one_answer_is_an_object_and_more_are_a_list_even_if_only_one_is_found(wordpiece: Path) -> None:
    # With whole words, an answer's score adds up more spans the more answers are requested, as in transformers 4.
    exact = {"align_to_words": False}
    one, several, few = _runner(wordpiece).predict(
        [_item("Who?", CORPUS[3], **exact), _item("Who?", CORPUS[3], top_k=3, **exact), _item("Who?", "the", top_k=3)]
    )
    assert one == several[0]
    assert len(several) == 3
    assert [answer["answer"] for answer in few] == ["the"]


@pytest.mark.parametrize("top_k", [1, 40])
def test_the_best_of_many_windows_are_the_best_of_all(wordpiece: Path, top_k: int) -> None:
    parameters = {"max_seq_len": 40, "doc_stride": 30, "max_answer_len": 30, "align_to_words": False}
    some, every = _runner(wordpiece).predict(
        [_item("Who?", LONG, **parameters, top_k=top_k), _item("Who?", LONG, **parameters, top_k=10_000)]
    )
    assert len(every) > 1500
    assert (some if top_k > 1 else [some]) == every[:top_k]


@pytest.mark.parametrize("align_to_words", [True, False])
def test_an_answer_is_exactly_its_span_of_the_context(folder: Path, align_to_words: bool) -> None:
    (answers,) = _runner(folder).predict(
        [_item("Where?", UNICODE, top_k=400, align_to_words=align_to_words, max_seq_len=40)]
    )
    assert len(answers) > 50
    assert all(answer["answer"] == UNICODE[answer["start"] : answer["end"]] for answer in answers)
    assert len({(answer["start"], answer["end"]) for answer in answers}) == len(answers)


def test_words_are_whole_even_where_a_window_cuts_them(folder: Path) -> None:
    context = " ".join(["Unbelievablyland"] * 8)
    (answers,) = _runner(folder).predict([_item("Where?", context, top_k=200, max_seq_len=30, doc_stride=3)])
    assert len(answers) > 5
    assert all(set(answer["answer"].split()) == {"Unbelievablyland"} for answer in answers)


def test_overlapping_windows_never_make_a_score_more_than_a_probability(folder: Path) -> None:
    (answers,) = _runner(folder).predict([_item("Who?", "Steve Jobs " * 12, top_k=50, max_seq_len=20, doc_stride=9)])
    assert all(0 <= answer["score"] <= 1 + 1e-6 for answer in answers)


def test_no_answer_is_offered_only_on_request_and_only_once(folder: Path) -> None:
    parameters = {"top_k": 5000, "max_seq_len": 40, "doc_stride": 7}
    without, offered = _runner(folder).predict(
        [_item("Who?", LONG, **parameters), _item("Who?", LONG, **parameters, handle_impossible_answer=True)]
    )
    assert [answer for answer in offered if answer["answer"]] == without
    (null,) = [answer for answer in offered if not answer["answer"]]
    assert (null["start"], null["end"]) == (0, 0)
    assert len(offered) == len(without) + 1


def test_a_long_question_is_used_whole_unless_truncated_on_request(wordpiece: Path) -> None:
    question = "the " * 30
    whole, cut = _runner(wordpiece).predict(
        [_item(question, CORPUS[3], top_k=3), _item(question, CORPUS[3], top_k=3, max_question_len=9)]
    )
    _same(whole, _search(wordpiece, question, CORPUS[3], top_k=3, doc_stride=15))
    _same(cut, _search(wordpiece, "the " * 9, CORPUS[3], top_k=3))


def test_a_question_that_leaves_no_room_for_context_is_refused_with_both_lengths(wordpiece: Path) -> None:
    refused, cut = _runner(wordpiece).predict(
        [_item("the " * 80, CORPUS[3]), _item("the " * 80, CORPUS[3], max_question_len=20)]
    )
    assert isinstance(refused, InvalidRequest)
    assert refused.message.startswith("question: has 80 tokens and a window 64")
    assert "parameters.max_question_len" in refused.message
    assert cut["answer"]


def test_a_window_is_never_larger_than_the_model(wordpiece: Path) -> None:
    (answer,) = _runner(wordpiece).predict([_item("Who?", LONG, max_seq_len=4096, doc_stride=32)])
    _same(answer, _search(wordpiece, "Who?", LONG))


@pytest.mark.parametrize(
    ("instance", "parameters", "named"),
    [
        ("Who?", {}, "must be an object with question and context"),
        ({"question": "Who?"}, {}, "context: Field required"),
        ({"question": "", "context": "Me."}, {}, "question: is empty"),
        ({"question": "Who?", "context": " \n"}, {}, "context: is empty"),
        ({"question": "Who?", "context": "\u200b"}, {}, "context: has no token"),
        ({"question": "\u200b", "context": "Me."}, {}, "question: has no token"),
        ({"question": "Who?", "context": ["Me.", "You."]}, {}, "context: Input should be a valid string"),
        ({"question": "Who?", "context": "Me.", "id": 1}, {}, "id: "),
        (None, {"topk": 1}, "did you mean 'top_k'"),
        (None, {"top_k": 0}, "parameters.top_k"),
        (None, {"top_k": True}, "parameters.top_k"),
        (None, {"max_answer_len": 0}, "parameters.max_answer_len"),
        (None, {"max_seq_len": "64"}, "parameters.max_seq_len"),
        (None, {"max_seq_len": 5}, "parameters.max_seq_len"),
        (None, {"doc_stride": -1}, "parameters.doc_stride"),
        (None, {"doc_stride": 64}, "parameters.doc_stride: must be less than 59"),
        (None, {"max_question_len": 0}, "parameters.max_question_len"),
        (None, {"top_k": 10_001}, "parameters.top_k: asks for 10001 answers, at most 10000 are given"),
        ({"question": "Who?", "context": "the " * 5000}, {"doc_stride": 58}, "4942 windows of 59"),
        ({"question": "Who?", "context": "the " * 1100}, {"max_seq_len": 6, "doc_stride": 0}, "at most 1024 are"),
    ],
)
def test_a_wrong_instance_or_parameter_is_refused_by_name_and_harms_no_other(
    wordpiece: Path, instance: Any, parameters: dict[str, Any], named: str
) -> None:
    right = {"question": "Who?", "context": "Me."}
    wrong, answer = _runner(wordpiece).predict([Item(instance or right, parameters), Item(right)])
    assert isinstance(wrong, InvalidRequest)
    assert named in wrong.message
    assert answer["score"] > 0


def test_a_tokenizer_that_cannot_locate_its_tokens_stops_the_start(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWC", "<mask>"]))
    tokenizer = _ESM(str(vocabulary))
    folder = save(tmp_path / "model", BertForQuestionAnswering, bert_config(tokenizer), tokenizer)
    with pytest.raises(LoadError, match="tokenizer"):
        _runner(folder)


def test_the_warm_up_example_is_answered(folder: Path) -> None:
    _runner(folder).warm_up()
