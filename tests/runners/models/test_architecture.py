"""Promise: without TASK, config.json decides the task if it is clear; else it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_runtime.contract.errors import LoadError
from hf_runtime.contract.tasks import TASKS
from hf_runtime.settings import ModelSettings
from runners.models.architecture import infer_task, resolve_task


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("DistilBertForTokenClassification", "token-classification"),
        ("RobertaForQuestionAnswering", "question-answering"),
        ("XLMForQuestionAnsweringSimple", "question-answering"),
        ("BertForMaskedLM", "fill-mask"),
        ("XLMWithLMHeadModel", "fill-mask"),
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("XLNetLMHeadModel", "text-generation"),
        ("T5WithLMHeadModel", "text2text-generation"),
        ("MarianMTModel", "text2text-generation"),
        ("EncoderDecoderModel", "text2text-generation"),
        ("VisionEncoderDecoderModel", None),
        ("SpeechEncoderDecoderModel", None),
        ("BertModel", "feature-extraction"),
        ("T5EncoderModel", "feature-extraction"),
        ("BertForPreTraining", None),
        ("BertForNextSentencePrediction", None),
        ("WhisperForAudioClassification", None),
    ],
)
def test_the_head_determines_the_task(architecture: str, task: str | None) -> None:
    assert infer_task({"architectures": [architecture]}) == task


def test_conditional_generation_is_text_to_text_only_with_an_encoder() -> None:
    config: dict[str, Any] = {"architectures": ["BartForConditionalGeneration"], "is_encoder_decoder": True}
    assert infer_task(config) == "text2text-generation"
    # An image-and-text model, such as LLaVA.
    assert infer_task({"architectures": ["LlavaForConditionalGeneration"]}) is None


@pytest.mark.parametrize("value", [None, [], [None], "BertModel", {}])
def test_a_config_without_an_architecture_determines_no_task(value: Any) -> None:
    assert infer_task({"architectures": value}) is None
    assert infer_task({}) is None


def _settings(folder: Path, config: dict[str, Any] | None, *files: str, **settings: Any) -> ModelSettings:
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for file in files:
        (folder / file).touch()
    return ModelSettings(storage_uri=str(folder), **settings)


def test_the_task_is_filled_in_and_nothing_else(tmp_path: Path) -> None:
    settings = _settings(tmp_path, {"architectures": ["BertModel"]}, revision="v1")
    assert resolve_task(settings) == settings.model_copy(update={"task": "feature-extraction"})


def test_a_configured_task_wins_without_reading_the_config(tmp_path: Path) -> None:
    settings = ModelSettings(storage_uri=str(tmp_path / "missing"), task="fill-mask")
    assert resolve_task(settings) is settings


@pytest.mark.parametrize("config", [None, {"model_type": "llama"}], ids=["alone", "beside a bare config.json"])
def test_gguf_generates_text(tmp_path: Path, config: dict[str, Any] | None) -> None:
    assert resolve_task(_settings(tmp_path, config, "a.gguf")).task == "text-generation"
    assert resolve_task(ModelSettings(storage_uri=str(tmp_path / "a.gguf"))).task == "text-generation"


def test_an_unclear_model_is_refused_with_the_tasks_to_choose_from(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as refused:
        resolve_task(_settings(tmp_path, {"architectures": ["BertForPreTraining"]}))
    assert "TASK is not set" in str(refused.value)
    assert all(task in str(refused.value) for task in TASKS)
