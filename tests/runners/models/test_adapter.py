"""Promise: adapters find their base model, answer as in peft, and run no code."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    BitsAndBytesConfig,
)

from hf_runtime.contract.errors import LoadError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.models.architecture import resolve_task
from runners.models.pretrained import Pretrained, load_pretrained
from runners.registry import create_runner
from runners.storage.fetch import fetch
from tests.e2e.checkpoints import text_generation
from tests.generators import pretrained_of
from tests.tiny import bert_config, llama_model, save, wordpiece_tokenizer

TEXT = "I love this movie!"
LABELS = 5


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Save an encoder without a head, large enough for quantization."""
    tokenizer = wordpiece_tokenizer()
    return save(tmp_path / "base", BertModel, bert_config(tokenizer, hidden_size=128, intermediate_size=256), tokenizer)


def _adapted(model: Any, folder: Path, **options: Any) -> Any:
    """Save an adapter with an effect on the model, as peft saves it."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, **options))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(str(folder))
    return adapted.eval()


def _classifier(base: Path, folder: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS)
    return _adapted(
        model, folder, task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=["classifier"]
    )


def _load(folder: Path, auto_class: Any = AutoModelForSequenceClassification, **options: Any) -> Pretrained:
    settings = resolve_task(ModelSettings(storage_uri=str(folder), **options))
    return load_pretrained(auto_class, fetch(settings), settings)


def _logits(model: Any) -> torch.Tensor:
    inputs = wordpiece_tokenizer()(TEXT, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits  # type: ignore[no-any-return]


def test_an_adapter_with_its_head_answers_as_in_peft(base: Path, tmp_path: Path) -> None:
    expected = _classifier(base, tmp_path / "adapter")
    loaded = _load(tmp_path / "adapter")
    assert loaded.model.config.num_labels == LABELS
    assert not isinstance(loaded.model, peft.PeftModel)
    torch.testing.assert_close(_logits(loaded.model), _logits(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantization", ["load_in_8bit", "load_in_4bit"])
def test_an_adapter_on_quantized_weights_answers_as_in_peft(base: Path, tmp_path: Path, quantization: str) -> None:
    _classifier(base, tmp_path / "adapter")
    loaded = _load(tmp_path / "adapter", **{quantization: True})
    config = BitsAndBytesConfig(**{quantization: True}, llm_int8_skip_modules=["classifier"])  # type: ignore[no-untyped-call]
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=LABELS, quantization_config=config, dtype=torch.float32
    )
    expected = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(_logits(loaded.model), _logits(expected), rtol=1e-4, atol=1e-4)


def test_a_text_generation_adapter_generates_what_peft_does(tmp_path: Path) -> None:
    base = text_generation(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    expected = _adapted(
        model, tmp_path / "adapter", task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True
    )
    settings = ModelSettings(storage_uri=str(tmp_path / "adapter"))
    assert resolve_task(settings).task == "text-generation"
    runner = create_runner(settings)
    runner.load()
    (answer,) = runner.predict([Item("Hello world", {"max_new_tokens": 8, "return_full_text": False})])
    tokenizer: Any = pretrained_of(runner).tokenizer
    inputs = tokenizer("Hello world", return_tensors="pt")
    tokens = expected.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer[0]["generated_text"] == tokenizer.decode(tokens, skip_special_tokens=True)


def _change(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_base_model_is_named_by_its_config_from_the_folder_or_by_a_setting(base: Path, tmp_path: Path) -> None:
    expected = _logits(_classifier(base, tmp_path / "adapter"))
    _change(tmp_path / "adapter", base_model_name_or_path="../base")
    torch.testing.assert_close(_logits(_load(tmp_path / "adapter").model), expected, rtol=1e-4, atol=1e-4)
    _change(tmp_path / "adapter", base_model_name_or_path="/home/trainer/models/base")
    with pytest.raises(
        LoadError, match="was trained on /home/trainer/models/base, a folder that is not here; set BASE"
    ):
        _load(tmp_path / "adapter")
    torch.testing.assert_close(
        _logits(_load(tmp_path / "adapter", base_model=str(base)).model), expected, rtol=1e-4, atol=1e-4
    )
    _change(tmp_path / "adapter", base_model_name_or_path=None)
    with pytest.raises(LoadError, match="does not name its base model; set BASE_MODEL"):
        _load(tmp_path / "adapter")


def test_a_missing_base_model_is_an_error_that_names_the_setting(base: Path, tmp_path: Path) -> None:
    _classifier(base, tmp_path / "adapter")
    with pytest.raises(
        LoadError, match=r"whose base model cannot be fetched; set BASE_MODEL to use another: .*/no/such does not"
    ):
        _load(tmp_path / "adapter", base_model="/no/such")


def test_an_adapter_of_another_model_or_kind_and_a_damaged_one_are_refused(base: Path, tmp_path: Path) -> None:
    _classifier(base, tmp_path / "adapter")
    tokenizer = wordpiece_tokenizer()
    other = save(tmp_path / "other", BertModel, bert_config(tokenizer, hidden_size=64), tokenizer)
    with pytest.raises(LoadError, match="made for another base model; name the right one as BASE_MODEL"):
        _load(tmp_path / "adapter", base_model=str(other))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:500])
    with pytest.raises(LoadError, match="damaged safetensors file"):
        _load(tmp_path / "adapter")
    weights.write_bytes(content)
    _change(tmp_path / "adapter", peft_type="PROMPT_TUNING")
    with pytest.raises(LoadError, match="is a PROMPT_TUNING adapter"):
        _load(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(LoadError, match=r"adapter_config\.json is not valid JSON"):
        _load(tmp_path / "adapter")


class _Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def test_code_in_a_pickled_adapter_does_not_run(base: Path, tmp_path: Path) -> None:
    _classifier(base, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    proof = tmp_path / "ran"
    torch.save({"base_model.model.classifier.weight": _Malicious(proof)}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(LoadError, match="pickled weights that could run code"):
        _load(tmp_path / "adapter")
    assert not proof.exists()


def test_pickled_adapters_load_with_a_warning(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = _logits(_classifier(base, tmp_path / "adapter"))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with caplog.at_level(logging.WARNING, "runners"):
        torch.testing.assert_close(_logits(_load(tmp_path / "adapter").model), expected, rtol=1e-4, atol=1e-4)
    assert caplog.text.count("has pickled weights") == 1
    weights.with_suffix(".bin").unlink()
    with pytest.raises(LoadError, match="is an adapter without weights"):
        _load(tmp_path / "adapter")


def test_an_adapter_with_the_base_models_config_is_still_an_adapter(base: Path, tmp_path: Path) -> None:
    adapted = _classifier(base, tmp_path / "adapter")
    adapted.base_model.model.config.save_pretrained(tmp_path / "adapter")
    loaded = _load(tmp_path / "adapter", task="text-classification")
    torch.testing.assert_close(_logits(loaded.model), _logits(adapted), rtol=1e-4, atol=1e-4)


def test_a_base_model_whose_weights_have_other_shapes_is_refused(base: Path, tmp_path: Path) -> None:
    _classifier(base, tmp_path / "adapter")
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 512}))
    with pytest.raises(LoadError, match=r"lacks weights that BertForSequenceClassification needs \(bert\.encoder"):
        _load(tmp_path / "adapter")


def test_an_adapter_of_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        _classifier(base, tmp_path / name)
    with pytest.raises(LoadError, match=r"set BASE_MODEL to use another: .*one is an adapter too"):
        _load(tmp_path / "two", base_model=str(tmp_path / "one"))


def test_an_adapter_with_new_tokens_generates_what_peft_does(tmp_path: Path) -> None:
    base = llama_model(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<new>", "<newer>"])
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    expected = _adapted(
        model, tmp_path / "adapter", task_type="CAUSAL_LM", target_modules=["q_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
    )  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "adapter")
    loaded = _load(tmp_path / "adapter", AutoModelForCausalLM)
    ids = loaded.tokenizer("Hello <new> world <newer>", return_tensors="pt")["input_ids"]
    assert int(ids.max()) == len(tokenizer) - 1
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)
