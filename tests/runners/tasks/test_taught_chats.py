"""Promise: real engines answer chats of thinking and calling models by parts, whole and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_runtime.contract.chat import parse_chat
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generation_engine import GenerationEngine
from runners.tasks.chat_prompt import tokenize_chat
from runners.tasks.text_generation import TextGenerationRunner
from tests.tiny import byte_level_tokenizer, with_generation_config

USER = {"role": "user", "content": "Weather?"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    "additionalProperties": False}}}  # fmt: skip
CALL = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
SHOWN = "{% if tools %}{% for t in tools %}{{ t.function.name }} {% endfor %}{% endif %}"
CHATML = (
    SHOWN + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
GPT_OSS = (
    SHOWN + "Reasoning: {{ reasoning_effort or 'medium' }}{% for m in messages %}<|start|>{{ m.role }}<|message|>"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}{# <|channel|> #}"
)
GEMMA2 = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
MARKS = [
    "<|im_start|>", "<|im_end|>", "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>",
    "<|return|>", "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>",
    "<|tool_call_end|>", "<|tool_calls_section_end|>",
]  # fmt: skip


def _teach(folder: Path, template: str, answer: str, **instance: Any) -> TextGenerationRunner:
    """A tiny model that gives one answer to one chat, whatever came before."""
    tokenizer = byte_level_tokenizer(512)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, hidden_size=64, intermediate_size=128,
        num_hidden_layers=1, num_attention_heads=2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), name="taught", task="text-generation"))
        runner.load()
        (row,) = runner.prepare_item(Item({"messages": [USER], **instance}, {"max_new_tokens": 1})).rows
        prompt, taught = row.inputs.input_ids, tokenizer(answer)["input_ids"]
        ids = torch.tensor([prompt + taught])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for _ in range(300):
            loss: torch.Tensor = model(input_ids=ids, labels=labels).loss
            if loss.item() < 0.01:
                break
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.save_pretrained(folder)
    with_generation_config(folder, {"eos_token_id": 0})
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), name="taught", task="text-generation"))
    runner.load()
    return runner


class _Deltas:
    def __init__(self) -> None:
        self.deltas: list[Mapping[str, Any]] = []

    def on_accepted(self) -> None:
        pass

    def on_delta(self, value: Mapping[str, Any]) -> None:
        self.deltas.append(value)


def _ask(runner: TextGenerationRunner, instance: Any, **parameters: Any) -> dict[str, Any]:
    """The answer, which must be the same whole and streamed."""
    given = {"details": True, "return_full_text": False, "max_new_tokens": 120, **parameters}

    async def ask() -> tuple[Any, list[Mapping[str, Any]]]:
        with ThreadPoolExecutor(1) as compute:
            engine = GenerationEngine(runner, max_queue_size=9, compute=compute)
            running = asyncio.create_task(engine.run())
            whole = await engine.submit(Item(instance, given))
            listener = _Deltas()
            await engine.submit(Item(instance, given), listener)
            running.cancel()
            return whole, listener.deltas

    (whole,), deltas = asyncio.run(ask())
    assert "".join(delta["generated_text"] for delta in deltas) == whole["generated_text"]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == whole.get("reasoning", "")
    assert [call for delta in deltas for call in delta.get("tool_calls", ())] == whole.get("tool_calls", [])
    assert deltas[-1]["finish_reason"] == whole["finish_reason"]
    return dict(whole)


def test_gpt_oss_thinks_and_calls(tmp_path: Path) -> None:
    answer = (
        "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant<|channel|>commentary"
        ' to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>'
    )
    runner = _teach(tmp_path, GPT_OSS, answer, tools=[TOOL])
    for choice in ("auto", "required"):
        said = _ask(runner, {"messages": [USER], "tools": [TOOL], "tool_choice": choice})
        assert (said["generated_text"], said["tool_calls"]) == ("", [CALL])
        assert (said["reasoning"], said["finish_reason"]) == ("Need the weather.", "stop")
    cut = _ask(runner, {"messages": [USER], "tools": [TOOL]}, max_new_tokens=said["generated_tokens"] - 4)
    assert (cut["generated_text"], cut["finish_reason"]) == ("", "length")
    assert "tool_calls" not in cut


def test_qwen3_thinks_unless_it_must_not(tmp_path: Path) -> None:
    template = CHATML + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    runner = _teach(tmp_path, template, "<think>\nI greet.\n</think>\n\nHello today.<|im_end|>")
    said = _ask(runner, {"messages": [USER]})
    assert (said["reasoning"], said["generated_text"], said["finish_reason"]) == ("I greet.", "Hello today.", "stop")
    assert _ask(runner, {"messages": [USER]}, stop=["day"])["generated_text"] == "Hello to"
    assert _ask(runner, {"messages": [USER]}, max_new_tokens=4).get("generated_text") == ""
    job = runner.prepare_item(Item({"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}}, {}))
    assert str(runner.tokenizer.decode(job.rows[0].inputs.input_ids)).endswith("<think>\n\n</think>\n\n")
    full = runner.prepare_item(Item({"messages": [USER]}, {"return_full_text": True, "max_new_tokens": 120}))
    (answer,) = runner.finish(full, runner.forward(full.rows))
    last = {"role": "assistant", "content": "Hello today.", "reasoning_content": "I greet."}
    assert answer["generated_text"][-1] == last
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["yes"]}}}
    formed = _ask(runner, {"messages": [USER]}, response_format=form)
    assert (formed["reasoning"], formed["generated_text"]) == ("I greet.", '"yes"')


def test_kimi_calls_between_special_tokens(tmp_path: Path) -> None:
    answer = (
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
    )
    template = CHATML + "{% endif %}{# <|tool_call_begin|> <|tool_call_argument_begin|> #}"
    runner = _teach(tmp_path, template, answer, tools=[TOOL])
    said = _ask(runner, {"messages": [USER], "tools": [TOOL]})
    assert (said["generated_text"], said["tool_calls"], said["finish_reason"]) == ("I look.", [CALL], "stop")
    for tokens in range(4, said["generated_tokens"] - 12):
        cut = _ask(runner, {"messages": [USER], "tools": [TOOL]}, max_new_tokens=tokens)
        assert "I look.".startswith(cut["generated_text"])
        assert cut["finish_reason"] == "length"


def test_gemma2_reads_the_tools_in_the_first_user_turn(tmp_path: Path) -> None:
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'
    runner = _teach(tmp_path, GEMMA2, call, tools=[TOOL])
    said = _ask(runner, {"messages": [USER], "tools": [TOOL]})
    assert (said["generated_text"], said["tool_calls"], said["finish_reason"]) == ("", [CALL], "stop")
    job = runner.prepare_item(Item({"messages": [USER], "tools": [TOOL]}, {}))
    prompt = str(runner.tokenizer.decode(job.rows[0].inputs.input_ids))
    assert prompt.startswith("<|im_start|>user\n# Tools")
    assert '"name": "get_weather"' in prompt


def test_an_answer_ends_with_its_turn_whatever_the_generation_config_says(tmp_path: Path) -> None:
    answer = "Hello today.<|im_end|>\n<|im_start|>user\nTwo and two?<|im_end|>"
    runner = _teach(tmp_path, CHATML + "{% endif %}", answer)
    said = _ask(runner, {"messages": [USER]})
    assert (said["generated_text"], said["finish_reason"]) == ("Hello today.", "stop")
    # A plain prompt keeps the ends of the generation config.
    job = runner.prepare_item(Item("Weather?", {"max_new_tokens": 5}))
    assert job.rows[0].inputs.end_ids == frozenset()


@pytest.mark.parametrize(("effort", "shown"), [("high", "high"), (None, "medium")])
def test_the_effort_of_reasoning_reaches_the_template(effort: str | None, shown: str) -> None:
    tokenizer = byte_level_tokenizer(512)
    tokenizer.chat_template = GPT_OSS

    chat = parse_chat({"messages": [USER], "reasoning_effort": effort})
    assert str(tokenizer.decode(tokenize_chat(tokenizer, chat))).startswith(f"Reasoning: {shown}")
