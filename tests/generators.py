"""Access to the generator and the checkpoint inside a runner."""

from __future__ import annotations

from typing import Any

from runners.engines.generate.transformers_generator import TransformersGenerator
from runners.engines.runner import Runner
from runners.models.pretrained import Pretrained
from runners.tasks.generation import GenerationRunner


def generator_of(runner: Runner[Any, Any, Any, Any]) -> TransformersGenerator:
    """Return the generator of a generative runner."""
    assert isinstance(runner, GenerationRunner)
    assert isinstance(runner.generator, TransformersGenerator)
    return runner.generator


def pretrained_of(runner: Runner[Any, Any, Any, Any]) -> Pretrained:
    """Return the checkpoint of any runner except a custom pipeline's."""
    loaded: Any = generator_of(runner) if isinstance(runner, GenerationRunner) else runner
    pretrained: Pretrained = loaded.pretrained
    return pretrained
