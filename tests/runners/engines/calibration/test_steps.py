"""Promise: more sequences run where that pays, and no step delays readers of a stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hf_runtime.settings import ModelSettings
from runners.engines.calibration import steps, stopwatch
from runners.engines.calibration.steps import Case, StepPlan, calibrate_steps
from runners.engines.generate.continuous import ContinuousDecoder
from runners.engines.generate.step import Step
from runners.engines.generate.trial import TrialSteps
from runners.tasks.text_generation import TextGenerationRunner
from tests.generators import generator_of
from tests.tiny import CONTEXT, llama_model

_USUAL = StepPlan(16, 64)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Case], float]], StepPlan | None]:
    """Return a function that plans for a machine with the given duration of steps."""

    def plan(seconds: Callable[[Case], float]) -> StepPlan | None:
        now = [0.0]

        def compute(case: Case) -> None:
            now[0] += seconds(case)

        monkeypatch.setattr(steps, "Stopwatch", lambda limit: stopwatch.Stopwatch(limit, lambda: now[0]))
        options = {"rows": (1, 4, 8, 16, 32, 64), "tokens": (16, 32, 64, 128, 256)}
        return calibrate_steps(compute, _USUAL, **options, seconds=60, cores=None)

    return plan


def test_more_sequences_run_if_a_step_hardly_grows(measured: Callable[..., StepPlan | None]) -> None:
    assert measured(lambda case: 0.1 + 0.0001 * case.size) == StepPlan(64, 256)


def test_fewer_sequences_run_if_a_step_grows_with_its_tokens(measured: Callable[..., StepPlan | None]) -> None:
    assert measured(lambda case: 0.0002 + 0.002 * case.size) == StepPlan(8, 16)


def test_no_step_exceeds_the_limit_for_streams(measured: Callable[..., StepPlan | None]) -> None:
    plan = measured(lambda case: 0.2 + 0.002 * case.size)
    assert plan is not None
    assert plan.rows == 16
    assert plan.tokens == 64


def test_a_model_too_slow_to_compare_keeps_the_default(measured: Callable[..., StepPlan | None]) -> None:
    assert measured(lambda case: 30.0) is None


def test_trial_steps_resemble_real_steps_and_fit_the_given_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(llama_model(tmp_path)), task="text-generation"))
    runner.load()
    decoder = generator_of(runner).decoder
    assert isinstance(decoder, ContinuousDecoder)
    stepping = decoder._incremental_model
    trial = TrialSteps(stepping, context=CONTEXT, budget=330)
    assert (trial.rows, trial.tokens) == (10, CONTEXT)
    seen: list[int] = []
    forward = stepping.forward

    def watched(step: Step, *arguments: object) -> object:
        seen.append(step.input_ids.shape[1])
        return forward(step, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stepping, "forward", watched)
    for case in (Case(rows=1), Case(rows=10), Case(tokens=CONTEXT)):
        trial.compute(case)
    assert seen == [1, 10, CONTEXT]
