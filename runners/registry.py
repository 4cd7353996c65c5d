"""Which runner computes which task.

Runners are imported where the model is, never in the entry service: torch is heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from runners.base import Runner
from settings import ModelSettings, Task

RUNNERS: Mapping[Task, str] = {
    "text-classification": "runners.text_classification:TextClassificationRunner",
    "token-classification": "runners.token_classification:TokenClassificationRunner",
    "question-answering": "runners.question_answering:QuestionAnsweringRunner",
    "text-generation": "runners.text_generation:TextGenerationRunner",
    "text2text-generation": "runners.text2text_generation:Text2TextGenerationRunner",
    "fill-mask": "runners.fill_mask:FillMaskRunner",
    "feature-extraction": "runners.feature_extraction:FeatureExtractionRunner",
}


def create_runner(settings: ModelSettings) -> Runner[Any, Any, Any, Any]:
    """The runner of `settings.task`, which must be set; nothing is loaded yet."""
    assert settings.task is not None, "this is a bug: the task is resolved before a runner is made"
    module, name = RUNNERS[settings.task].split(":")
    return cast("Runner[Any, Any, Any, Any]", getattr(import_module(module), name)(settings))
