"""Promise: models of the demonstration's sizes answer README's requests correctly.

The answers equal those of plain transformers. The models replace the ones that `make demo` trains and
`make readme-test` requests. Weights are random and layers two, but vocabularies and widths are the same: a head of
30,522 rows may fail where one of 200 does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    pipeline,
)

from commands.demo_models import text2text_generation, text_classification, token_classification
from tests.e2e.checkpoints import inference_service
from tests.e2e.server import SETTLED, Server, serving
from tests.readme import DEMO, MODELS_OF, REQUESTS, Example
from tests.tiny import bert_config, save, wordpiece_tokenizer

pytestmark = pytest.mark.xdist_group("demo-sizes")

#: Tokens of MiniLM, and so of the four models that are trained on top of it.
VOCABULARY = 30_522


def _bert(model_class: Any, folder: Path, labels: Mapping[int, str] | None = None) -> None:
    """Return a model of MiniLM's sizes.

    Its weights are small enough for small rounding errors and large enough for clear choices.
    """
    # Each word of the requests is a token, so that spans of tokens are spans of words.
    words = re.findall(r"\w+|[^\w\s]", " ".join(each.body for each in REQUESTS if each.model in STAND_INS))
    fewer = wordpiece_tokenizer(more=words)
    tokenizer = wordpiece_tokenizer(more=[*words, *(f"[unused{number}]" for number in range(len(fewer), VOCABULARY))])
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "initializer_range": 0.1}
    config = bert_config(tokenizer, **sizes, **({"id2label": labels} if labels else {}))
    save(folder, model_class, config, tokenizer)


def _t5(folder: Path) -> None:
    """Return the demonstration's untrained T5, with weights that generate more than one word."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model, tokenizer = text2text_generation.untrained(initializer_factor=2.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


STAND_INS: Mapping[str, Callable[[Path], None]] = {
    "text-classification": partial(_bert, BertForSequenceClassification, labels=text_classification.LABELS),
    "token-classification": partial(
        _bert, BertForTokenClassification, labels=dict(enumerate(token_classification.LABELS))
    ),
    "question-answering": partial(_bert, BertForQuestionAnswering),
    "fill-mask": partial(_bert, BertForMaskedLM),
    "text2text-generation": _t5,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with one model folder per task, named after the task."""
    folder = tmp_path_factory.mktemp("demo-sizes")
    for task, make in STAND_INS.items():
        make(folder / task)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    config = folder / "demo.yaml"
    config.write_text(yaml.safe_dump_all(inference_service(task, folder / task, {"TASK": task}) for task in STAND_INS))
    with serving(models=len(STAND_INS), until=SETTLED, RUNTIME_CONFIG=str(config)) as server:
        yield server


def _questions_span(folder: Path, instance: Mapping[str, str]) -> Any:
    """Find the likeliest span of at most 15 tokens.

    Return it with the probabilities of its ends among the context and [CLS].
    """
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder)
    inputs = tokenizer(instance["question"], instance["context"], return_tensors="pt", return_offsets_mapping=True)
    offsets, sides = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
    with torch.inference_mode():
        output = model(**inputs)
    outside = torch.tensor([side != 1 and position > 0 for position, side in enumerate(sides)])
    start, end = (
        logits[0].masked_fill(outside, float("-inf")).softmax(0) for logits in (output.start_logits, output.end_logits)
    )
    spans = torch.outer(start, end).triu().tril(14)
    spans[0] = 0
    first, last = divmod(int(spans.argmax()), len(end))
    return {
        "score": pytest.approx(spans.max().item(), rel=1e-3),
        "start": offsets[first][0],
        "end": offsets[last][1],
        "answer": instance["context"][offsets[first][0] : offsets[last][1]],
    }


def _expected(folder: Path, task: str, body: Mapping[str, Any]) -> Any:
    (instance,), parameters = body["instances"], body.get("parameters", {})
    if task == "question-answering":
        return _questions_span(folder, instance)
    if task == "text2text-generation":
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
        tokens = model.generate(**tokenizer(instance, return_tensors="pt"), max_new_tokens=20, do_sample=False)
        return [{"generated_text": tokenizer.decode(tokens[0], skip_special_tokens=True)}]
    answers = pipeline(task, model=str(folder))(instance, **parameters)  # type: ignore[call-overload]
    return [{**answer, "score": pytest.approx(float(answer["score"]), rel=1e-3)} for answer in answers]


@pytest.mark.parametrize(
    "example", [each for each in REQUESTS if each.model in STAND_INS], ids=lambda example: example.model
)
def test_a_stand_in_answers_as_plain_transformers_does(server: Server, folder: Path, example: Example) -> None:
    task = str(example.model)
    expected = _expected(folder / task, task, json.loads(example.body))
    assert json.loads(example.run(server.port)) == {"predictions": [expected]}


def test_every_model_that_is_trained_has_a_stand_in() -> None:
    trained = {name for name, uri in MODELS_OF[DEMO].items() if uri.startswith(".models/demo-")}
    assert trained == set(STAND_INS)
