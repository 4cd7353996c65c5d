"""Promises: requests that clients sent to SmolLM2, as they reach its runner, get the answers they need."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.text_generation import TextGenerationRunner
from tests.project import ROOT

FOLDER = ROOT / ".models" / "SmolLM2-135M-Instruct"
GGUF = next(iter(FOLDER.glob("*.gguf")), None)

pytestmark = pytest.mark.skipif(GGUF is None, reason="the model is not here; `make serve` downloads it")

PARIS = [504, 3575, 282, 4649, 314, 7042]  # The capital of France is Paris


@pytest.fixture(scope="module")
def runner() -> TextGenerationRunner:
    runner = TextGenerationRunner(
        ModelSettings(storage_uri=str(FOLDER), task="text-generation", calibration_seconds=0, max_batch_size=4)
    )
    runner.load()
    return runner


def _ask(runner: TextGenerationRunner, instance: Any, **parameters: Any) -> Any:
    (answer,) = runner.predict([Item(instance, {"details": True, **parameters})])
    assert not isinstance(answer, Exception), answer
    return answer[0]


def test_a_prompt_of_tokens_is_scored_as_transformers_scores_it(runner: TextGenerationRunner) -> None:
    assert GGUF is not None
    scored = _ask(runner, PARIS, max_new_tokens=1, logprobs=1, prompt_logprobs=1)
    logprobs = [token["logprob"] for token in scored["prompt_logprobs"]]
    assert (len(logprobs), logprobs[0]) == (6, None)
    assert logprobs[5] == pytest.approx(-0.2581, abs=1e-3)
    model: Any = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=GGUF.name, dtype=torch.float32)
    with torch.inference_mode():
        rows = model(torch.tensor([PARIS])).logits[0].log_softmax(-1)
    assert logprobs[1:] == pytest.approx(rows[torch.arange(5), PARIS[1:]].tolist(), abs=1e-3)


def test_nothing_new_after_an_echo(runner: TextGenerationRunner) -> None:
    assert _ask(runner, "Hello", max_new_tokens=0, return_full_text=True)["generated_text"] == "Hello"


def _tool(name: str, parameters: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_a_pattern_that_cannot_be_enforced_costs_no_tool(runner: TextGenerationRunner) -> None:
    price = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]}
    size = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    tools = [_tool("f", {"type": "object", "properties": {"price": price, "size": size}})]
    chat = {"messages": [{"role": "user", "content": "Weather in Paris?"}], "tools": tools}
    assert _ask(runner, chat, max_new_tokens=8)["finish_reason"] in ("stop", "length")


def test_a_forced_call_of_an_open_object_ends(runner: TextGenerationRunner) -> None:
    item = {
        "$defs": {"Colour": {"enum": ["red", "blue"], "title": "Colour", "type": "string"}},
        "properties": {
            "title": {"description": "short", "maxLength": 30, "title": "Title", "type": "string"},
            "colour": {"$ref": "#/$defs/Colour"},
            "kind": {"enum": ["a", "b"], "title": "Kind", "type": "string"},
            "tags": {"items": {"type": "string"}, "maxItems": 3, "title": "Tags", "type": "array"},
            "price": {"anyOf": [{"minimum": 0, "type": "number"}, {"type": "null"}], "default": None},
        },
        "required": ["colour", "kind", "tags", "title"],
        "type": "object",
    }
    choice = {"type": "function", "function": {"name": "Item"}}
    chat = {"messages": [{"role": "user", "content": "A red item"}], "tools": [_tool("Item", item)]}
    answer = _ask(runner, {**chat, "tool_choice": choice}, max_new_tokens=200, return_full_text=False)
    (call,) = answer["tool_calls"]
    assert answer["finish_reason"] == "stop"
    assert set(json.loads(call["arguments"])) <= {"title", "colour", "kind", "tags", "price"}


def test_a_schema_that_is_not_strict_is_enforced_as_far_as_possible(runner: TextGenerationRunner) -> None:
    names = {"type": "array", "items": {"type": "string", "maxLength": 9}, "uniqueItems": True, "maxItems": 2}
    schema = {"type": "object", "properties": {"names": names}, "required": ["names"]}
    answer = _ask(
        runner, [{"role": "user", "content": "Weather in Paris?"}], max_new_tokens=80, return_full_text=False,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": False}},
    )  # fmt: skip
    assert set(json.loads(answer["generated_text"])) == {"names"}
