"""Promise: third-party code ends one step after its client leaves, and is else unchanged."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.batch.engine import BatchEngine
from runners.tasks.custom_pipeline import CustomPipelineRunner
from tests.e2e.checkpoints import text2text_generation, text_generation

#: Pipelines of transformers, and custom code with a model in one of its attributes.
PIPELINE = """from transformers import pipeline
def create_pipeline():
    made = pipeline("text-generation", model="./model")
    made.tokenizer.pad_token_id = made.model.config.eos_token_id
    return made
"""
FUNCTION = """import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
def create_pipeline():
    model, tokenizer = AutoModelForCausalLM.from_pretrained("./model"), AutoTokenizer.from_pretrained("./model")
    def answer(text, **options):
        try:
            output = model.generate(**tokenizer(text, return_tensors="pt"), **options)
        except Exception:
            return "failed"
        return tokenizer.decode(output[0])
    return answer
"""
OWN_CRITERIA = FUNCTION.replace(
    "**options)\n        except",
    "stopping_criteria=[lambda ids, scores: torch.full((len(ids),), ids.shape[1] >= 40)], **options)\n        except",
)
OWN_LOOP = FUNCTION.replace(
    'output = model.generate(**tokenizer(text, return_tensors="pt"), **options)',
    'output = tokenizer(text, return_tensors="pt").input_ids\n'
    '            for _ in range(options["max_new_tokens"]):\n'
    "                best = model(input_ids=output).logits[:, -1].argmax(-1)\n"
    "                output = torch.cat([output, best[:, None]], 1)",
)
SEQ2SEQ = FUNCTION.replace("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
LONG = {"max_new_tokens": 60, "min_new_tokens": 60}
LOOP = {"max_new_tokens": 60}


def _runner(folder: Path, code: str, **options: Any) -> CustomPipelineRunner:
    checkpoint = (text2text_generation if "Seq2Seq" in code else text_generation)(folder)
    (checkpoint / "custom_pipeline.py").write_text(code)
    runner = CustomPipelineRunner(ModelSettings(storage_uri=str(checkpoint), trust_remote_code=True, **options))
    runner.load()
    return runner


class _StepCounter:
    """Counter of the model's forward passes that runs a function in the fifth."""

    def __init__(self) -> None:
        self.count = 0
        self.in_the_fifth: Any = None

    def __call__(self, module: torch.nn.Module, _: Any) -> None:
        if type(module).__name__.endswith(("LMHeadModel", "ConditionalGeneration")):
            self.count += 1
            if self.count == 5:
                self.in_the_fifth()


@pytest.mark.parametrize(
    ("code", "parameters"),
    [
        (PIPELINE, LONG), (PIPELINE, {**LONG, "num_beams": 3}), (PIPELINE, {**LONG, "do_sample": True}),
        (FUNCTION, LONG), (FUNCTION, {**LONG, "num_beams": 2}), (OWN_CRITERIA, LONG), (OWN_LOOP, LOOP),
        (SEQ2SEQ, LONG),
    ],
    ids=["pipeline", "beams", "sampled", "function", "beams of a function", "criteria", "loop", "seq2seq"],
)  # fmt: skip
def test_a_pipeline_ends_within_a_step_after_its_clients_left(
    tmp_path: Path, code: str, parameters: dict[str, Any]
) -> None:
    runner, steps = _runner(tmp_path / "m", code), _StepCounter()

    async def scenario() -> Any:
        loop, left = asyncio.get_running_loop(), threading.Event()
        with ThreadPoolExecutor(1) as compute:
            engine = BatchEngine(runner, max_queue_size=10, compute=compute)
            running = asyncio.create_task(engine.run())
            future = engine.submit(Item("Paris is", parameters))

            def in_the_fifth() -> None:
                future.add_done_callback(lambda _: left.set())
                loop.call_soon_threadsafe(future.cancel)
                assert left.wait(30)

            steps.in_the_fifth = in_the_fifth
            async with asyncio.timeout(60):
                await asyncio.wait([future])
                assert future.cancelled()
                answer = await engine.submit(Item("Paris", {"max_new_tokens": 2}))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return answer

    hook = torch.nn.modules.module.register_module_forward_pre_hook(steps)
    try:
        answer = asyncio.run(scenario())
    finally:
        hook.remove()
    # Five, one that may have begun, and those of the item after it.
    assert steps.count <= 5 + 1 + 2
    assert answer != "failed"


def test_a_batch_continues_for_the_remaining_clients(tmp_path: Path) -> None:
    runner = _runner(tmp_path / "m", PIPELINE, max_batch_size=2)
    gone, stays = False, False
    rows = [
        runner.prepare_item(Item(text, {**LONG, "do_sample": False}, is_cancelled=is_cancelled)).rows[0]
        for text, is_cancelled in (("Paris", lambda: gone), ("Berlin", lambda: stays))
    ]
    expected = runner.forward(rows)
    gone = True
    assert runner.forward(rows) == expected
    stays = True
    assert [type(answer) for answer in runner.forward(rows)] == [InferenceFailed, InferenceFailed]


def test_stopping_criteria_of_the_code_itself_still_end_its_text(tmp_path: Path) -> None:
    runner = _runner(tmp_path / "m", OWN_CRITERIA)
    item = Item("Paris", {"max_new_tokens": 100, "min_new_tokens": 100}, is_cancelled=lambda: False)
    (answer,) = runner.predict([item])
    (alone,) = runner.predict([Item("Paris", item.parameters)])
    assert answer == alone != "failed"
    steps = _StepCounter()
    steps.in_the_fifth = lambda: None
    hook = torch.nn.modules.module.register_module_forward_pre_hook(steps)
    runner.predict([item])
    hook.remove()
    assert steps.count < 40
