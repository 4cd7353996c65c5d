"""Promise: a good checkpoint loads ready to serve, and a bad one is refused clearly."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings, Task
from runners.kernels.host_cpu import supports_tiles
from runners.models.pretrained import Pretrained, load_pretrained
from runners.storage.checkpoint import Checkpoint
from runners.storage.fetch import fetch
from tests.tiny import bert_config, byte_level_tokenizer, save, wordpiece_tokenizer

NO_LIMIT = 10**30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save a good checkpoint for fill-mask, for a test to damage."""
    tokenizer = wordpiece_tokenizer()
    return save(tmp_path / "model", BertForMaskedLM, bert_config(tokenizer), tokenizer)


def _load(
    path: Path, auto_class: Any = AutoModelForMaskedLM, task: Task = "fill-mask", new_head: bool = False, **options: Any
) -> Pretrained:
    settings = ModelSettings(storage_uri=str(path), task=task, **options)
    return load_pretrained(auto_class, fetch(settings), settings, new_head=new_head)


def _refusal(path: Path, *args: Any, **options: Any) -> str:
    with pytest.raises(LoadError) as refused:
        _load(path, *args, **options)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert message.endswith(".")
    return message


def _change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def test_a_checkpoint_loads_in_evaluation_mode_as_float32(folder: Path) -> None:
    loaded = _load(folder)
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.max_length == 64
    assert _load(folder, torch_dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("auto_class", "task"),
    [
        (AutoModelForQuestionAnswering, "question-answering"),
        (AutoModelForSequenceClassification, "text-classification"),
        (AutoModelForSeq2SeqLM, "text2text-generation"),
        (AutoModelForCausalLM, "text-generation"),
    ],
)
def test_a_model_made_for_another_task_is_refused(folder: Path, auto_class: Any, task: Task) -> None:
    assert f"{task}; choose another TASK or model" in _refusal(folder, auto_class, task)


def test_a_new_head_is_accepted_with_a_warning_where_the_task_allows_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = wordpiece_tokenizer()
    folder = save(tmp_path / "model", BertModel, bert_config(tokenizer), tokenizer)
    with caplog.at_level(logging.WARNING, "runners"):
        _load(folder, AutoModelForSequenceClassification, "text-classification", new_head=True)
    assert "has no text-classification head: classifier.bias, classifier.weight are random" in caplog.text
    assert "lacks weights" in _refusal(folder)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "config.json").write_text('{"model_'), "config.json is not valid JSON"),
        (lambda f: (f / "tokenizer.json").write_text('{"model_'), "damaged JSON file"),
        (lambda f: _cut(f / "model.safetensors", 2000), "damaged safetensors file"),
        (lambda f: _cut(f / "model.safetensors", 0), "damaged safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights (model.safetensors or pytorch_model.bin)"),
        (lambda f: _change(f / "config.json", hidden_size=64), "weights of other shapes than its config.json"),
        (lambda f: _change(f / "config.json", num_hidden_layers=3), "lacks weights"),
        (
            lambda f: _change(f / "config.json", model_type="mystery"),
            f"type mystery, which transformers {transformers.__version__} does not know",
        ),
        (lambda f: (f / "config.json").write_text("{}"), "does not say in config.json what type of model it is"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer that can be read: tokenizer.json is missing"),
        (
            lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
            "has no tokenizer files (tokenizer.json, vocab.txt)",
        ),
    ],
    ids=[
        "cut config", "cut tokenizer", "cut weights", "empty weights", "no weights", "other shapes", "missing layer",
        "unknown type", "no type", "no tokenizer.json", "no tokenizer at all",
    ],
)  # fmt: skip
def test_a_damaged_or_unknown_model_is_refused_in_one_sentence(
    folder: Path, damage: Callable[[Path], object], named: str
) -> None:
    damage(folder)
    assert named in _refusal(folder)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: next(f.glob("model-00002-*")).unlink(), "lacks its file model-00002-of-0000"),
        (lambda f: _cut(next(f.glob("model-00002-*")), 500), "damaged safetensors file"),
        (lambda f: (f / "model.safetensors.index.json").unlink(), "has no weights"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "damaged JSON file"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "damaged index of its weights"),
    ],
    ids=["missing shard", "cut shard", "no index", "cut index", "empty index"],
)
def test_a_model_in_several_files_is_refused_if_one_is_damaged(
    folder: Path, damage: Callable[[Path], object], named: str
) -> None:
    model = _load(folder, acceleration=False).model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    torch.testing.assert_close(_load(folder, acceleration=False).model.state_dict(), model.state_dict())
    damage(folder)
    assert named in _refusal(folder)


def test_a_device_map_that_does_not_exist_is_refused_with_the_setting(folder: Path) -> None:
    assert "DEVICE_MAP=everywhere" in _refusal(folder, device_map="everywhere")


def test_a_model_with_remote_code_is_refused_without_running_it_unless_trusted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    proof = tmp_path / "ran"
    (folder / "configuration_own.py").write_text(
        "from pathlib import Path\nfrom transformers import BertConfig\n"
        f"Path({str(proof)!r}).touch()\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import BertForMaskedLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnModel(BertForMaskedLM):\n    config_class = OwnConfig\n"
    )
    _change(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "configuration_own.OwnConfig", "AutoModelForMaskedLM": "modeling_own.OwnModel"},
    )
    assert "set TRUST_REMOTE_CODE=true if you trust it" in _refusal(folder)
    assert not proof.exists()
    _load(folder, trust_remote_code=True)
    assert proof.exists()


def test_pickled_weights_load_with_a_warning_and_pickled_code_does_not_run(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = folder / "pytorch_model.bin"
    torch.save(_load(folder, acceleration=False).model.state_dict(), weights)
    (folder / "model.safetensors").unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "runners"):
        assert isinstance(_load(folder).model, BertForMaskedLM)
    assert caplog.text.count("has pickled weights") == 1
    _cut(weights, 1000)
    assert "damaged pytorch_model.bin" in _refusal(folder)

    proof = tmp_path / "ran"
    for attack in (lambda: torch.save({"a": _Malicious(proof)}, weights),
                   lambda: weights.write_bytes(pickle.dumps(_Malicious(proof), 2))):  # fmt: skip
        attack()
        assert "pickled weights that could run code" in _refusal(folder)
        assert not proof.exists()


class _Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def test_the_maximal_length_is_the_number_of_reachable_positions(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer(NO_LIMIT)
    bert = save(tmp_path / "bert", BertForMaskedLM, bert_config(tokenizer, max_position_embeddings=512), tokenizer)
    assert _load(bert).max_length == 512
    # Its padding index is 0 here and 1 in the real one, where 512 of 514 are left.
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=514, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    roberta = save(tmp_path / "roberta", RobertaForMaskedLM, config, tokenizer)
    loaded = _load(roberta)
    length = 513
    assert loaded.max_length == length
    with torch.inference_mode():
        loaded.model(torch.full((1, length), 7))
        with pytest.raises((IndexError, RuntimeError)):
            loaded.model(torch.full((1, length + 1), 7))


@pytest.mark.parametrize("name", ["ByT5", "Canine", "Perceiver"])
def test_a_tokenizer_of_bytes_or_characters_needs_no_vocabulary(tmp_path: Path, name: str) -> None:
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                             "intermediate_size": 64, "max_position_embeddings": 128}  # fmt: skip
    task: Task = "text-classification"
    auto_class: Any = AutoModelForSequenceClassification
    model: Any
    match name:
        case "ByT5":
            model = transformers.T5ForConditionalGeneration(
                transformers.T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
            )
            task, auto_class = "text2text-generation", AutoModelForSeq2SeqLM
        case "Canine":
            model = transformers.CanineForSequenceClassification(transformers.CanineConfig(**small))
        case _:
            config = transformers.PerceiverConfig(
                num_latents=8, d_latents=32, d_model=32, num_blocks=1, num_self_attends_per_block=1,
                num_self_attention_heads=2, num_cross_attention_heads=2, max_position_embeddings=128,
            )  # fmt: skip
            model = transformers.PerceiverForSequenceClassification(config)
    tokenizer: Any = getattr(transformers, f"{name}Tokenizer")()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = _load(tmp_path, auto_class, task)
    assert loaded.tokenizer("Anna")["input_ids"] == tokenizer("Anna")["input_ids"]


def test_no_padding_token_is_invented(tmp_path: Path) -> None:
    """Check that an end-of-text token does not become padding.

    A classifier reads a text at its last token that is no padding.
    """
    tokenizer = byte_level_tokenizer()
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=1, n_head=2)
    loaded = _load(save(tmp_path, transformers.GPT2LMHeadModel, config, tokenizer), AutoModelForCausalLM,
                   "text-generation")  # fmt: skip
    assert loaded.tokenizer.pad_token is None
    assert loaded.model.config.pad_token_id is None


def test_a_gguf_file_loads_with_its_own_tokenizer(tmp_path: Path) -> None:
    _write_gguf(tmp_path / "tiny.gguf")
    loaded = _load(tmp_path / "tiny.gguf", AutoModelForCausalLM, "text-generation")
    assert loaded.tokenizer.decode(loaded.tokenizer("Hello world")["input_ids"]) == "Hello world"
    assert loaded.max_length == 64
    for quantization in ("load_in_8bit", "load_in_4bit"):
        message = _refusal(tmp_path / "tiny.gguf", AutoModelForCausalLM, "text-generation", **{quantization: True})
        assert "is quantized already (gguf); leave out LOAD_IN_8BIT and LOAD_IN_4BIT" in message
    _cut(tmp_path / "tiny.gguf", 9000)
    assert "could not be loaded" in _refusal(tmp_path / "tiny.gguf", AutoModelForCausalLM, "text-generation")


def test_a_gguf_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the description is read only once.

    Reading takes seconds, and transformers requests it three times.
    """
    _write_gguf(tmp_path / "tiny.gguf")
    read: list[str] = []

    class Counting(gguf.GGUFReader):
        def __init__(self, path: str, mode: Any = "r") -> None:
            read.append(path)
            super().__init__(path, mode)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    for _ in range(2):
        loaded = _load(tmp_path / "tiny.gguf", AutoModelForCausalLM, "text-generation")
        assert torch.equal(loaded.model.model.norm.weight, torch.full((32,), 0.1))
    # Read again for each model, because the file may have changed.
    assert len(read) == 2
    assert gguf.GGUFReader is Counting


def _write_gguf(path: Path) -> None:
    """Save a llama of one layer with random weights and a tokenizer of GPT-2's kind."""
    tokenizer = byte_level_tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(0)
    shapes = {"token_embd": (len(tokens), 32), "output": (len(tokens), 32), "output_norm": (32,)}
    layer = {"attn_norm": (32,), "ffn_norm": (32,), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    layer |= {f"attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.{name}": shape for name, shape in layer.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.full(shape, 0.1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("device_map", [None, "cpu", "auto"])
@pytest.mark.parametrize("quantization", ["load_in_8bit", "load_in_4bit"])
def test_a_quantized_model_is_smaller_and_its_head_keeps_its_precision(
    tmp_path: Path, quantization: str, device_map: str | None
) -> None:
    tokenizer = wordpiece_tokenizer()
    config = bert_config(tokenizer, num_labels=3, hidden_size=128, intermediate_size=256)
    folder = save(tmp_path, BertForSequenceClassification, config, tokenizer)

    def load(**settings: Any) -> Any:
        model = ModelSettings(storage_uri=str(folder), task="text-classification", **settings)
        return load_pretrained(AutoModelForSequenceClassification, Checkpoint(folder), model).model

    plain, quantized = load(acceleration=False), load(**{quantization: True}, device_map=device_map)
    assert quantized.get_memory_footprint() < 0.7 * plain.get_memory_footprint()
    assert torch.equal(quantized.classifier.weight, plain.classifier.weight)
    inputs = tokenizer("I love this movie!", return_tensors="pt")
    assert torch.isfinite(quantized(**inputs).logits).all()


def test_a_model_whose_kernels_cannot_be_compiled_is_served_without_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ModelSettings(storage_uri=str(folder), task="fill-mask", storage_cache=tmp_path / "cache")
    plain = settings.model_copy(update={"acceleration": False})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    loaded, expected = (
        load_pretrained(AutoModelForMaskedLM, fetch(one), one, reads_batches=True) for one in (settings, plain)
    )
    inputs = loaded.tokenizer("a short text", return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(**inputs).logits, expected.model(**inputs).logits)
    assert loaded.kernels is None
    if supports_tiles():
        assert "kernels cannot be compiled: the compiler ended with 1" in caplog.text
