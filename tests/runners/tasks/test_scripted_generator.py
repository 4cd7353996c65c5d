"""Promise: any generator, even one without torch, is enough for a chat with tools."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT
from tests.tiny import CHAT_TEMPLATE, byte_level_tokenizer

#: Script of a chat with tools whose generator has a fixed answer; it exits if torch is imported.
_SCENARIO = """
import asyncio, json, sys
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

sys.modules["torch"] = None  # an import of it fails

from transformers import PreTrainedTokenizerFast

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.engine import get_engine_factory
from runners.engines.generation_request import SequenceOutput
from runners.engines.generator import Generator, SequenceUpdate, TokenEngine
from runners.engines.runner import ExecutionPlan
from runners.tasks.text_generation import TextGenerationRunner

TEXT = 'Let me see. <tool_call>{"name": "weather", "arguments": {"city": "Graz"}}</tool_call>'


class Sequence:
    def __init__(self, request):
        self.request, self.started, self.tokens, self.cached_tokens = request, None, [], 0
        self.finish_reason, self.cancelled = None, False


class Script(TokenEngine):
    def add(self, requests, context, *, streamed):
        sequences = [Sequence(request) for request in requests]
        for sequence in sequences:
            asyncio.get_running_loop().call_soon(self._generate, sequence, streamed)
        return sequences

    def _generate(self, sequence, streamed):
        sequence.started = monotonic()
        self.on_start(sequence, sequence.started)
        parts = [TEXT[:20], TEXT[20:45], TEXT[45:]]
        for part in parts:
            sequence.tokens.append(7)
            last = part is parts[-1]
            sequence.finish_reason = "stop" if last else None
            output = SequenceOutput(sequence.tokens, TEXT, "stop") if last else None
            delta = (part, []) if streamed else None
            self.on_updates([SequenceUpdate(sequence, delta, output, None, len(sequence.tokens), monotonic())])

    async def run(self):
        await asyncio.Event().wait()


class Grammars:
    compiled = []

    def prepare(self):
        pass

    def compile(self, grammar, field="grammar"):
        self.compiled.append(grammar)
        return grammar

    def response_format(self, given):
        return None


class ScriptedGenerator(Generator):
    max_length, max_output_length, input_vocabulary, vocabulary, missing_tokens = 4096, None, 300, 300, {}
    beams, stop, grammars, max_sequence_tokens, execution_plan = 1, (), Grammars(), None, ExecutionPlan(1, 1)

    def __init__(self, folder):
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def min_new_tokens(self, prompt_length):
        return 0

    def generate(self, requests):
        return [SequenceOutput([7], TEXT, "stop") for _ in requests]

    def create_engine(self, compute, observer):
        return Script()


class Runner(TextGenerationRunner):
    def create_generator(self):
        return ScriptedGenerator(sys.argv[1])


class Listener:
    def __init__(self):
        self.deltas = []

    def on_accepted(self):
        self.deltas.append("accepted")

    def on_delta(self, value):
        self.deltas.append(value)


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CHAT = {"messages": [{"role": "user", "content": "How is it in Graz?"}], "tools": [TOOL], "tool_choice": "required"}


async def scenario():
    runner = Runner(ModelSettings(storage_uri=sys.argv[1], task="text-generation"))
    runner.load()
    runner.warm_up()
    with ThreadPoolExecutor(1) as compute:
        engine = get_engine_factory(runner)(max_queue_size=10, compute=compute)
        running = asyncio.create_task(engine.run())
        listener = Listener()
        answer = await engine.submit(Item(CHAT, {"return_full_text": False, "details": True}))
        await engine.submit(Item(CHAT), listener)
        running.cancel()
    print(json.dumps({"answer": answer, "deltas": listener.deltas, "grammars": Grammars.compiled}))


asyncio.run(scenario())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def test_a_scripted_generator_answers_a_chat_with_tools_whole_and_streamed_without_torch(folder: Path) -> None:
    command = [sys.executable, "-c", _SCENARIO, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    call = {"name": "weather", "arguments": '{"city": "Graz"}'}
    (answer,) = said["answer"]
    assert (answer["generated_text"], answer["tool_calls"]) == ("Let me see.", [call])
    assert (answer["finish_reason"], answer["generated_tokens"]) == ("stop", 3)
    accepted, *deltas = said["deltas"]
    assert accepted == "accepted"
    assert "".join(delta["generated_text"] for delta in deltas) == "Let me see."
    assert [found for delta in deltas for found in delta.get("tool_calls", ())] == [call]
    assert deltas[-1]["finish_reason"] == "stop"
    assert len(said["grammars"]) == 2
