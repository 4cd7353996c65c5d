"""Promise: an optimization that raises or is wrong is left out, and answers stay right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_runtime.contract.errors import LoadError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.calibration.encoders import BatchPlan
from runners.engines.calibration.steps import StepPlan
from runners.engines.rows import BatchLimits, Parallelism
from runners.engines.runner import Runner
from runners.kernels import CompileError, linear
from runners.kernels.fallbacks import Optimization
from runners.kernels.host_cpu import supports_tiles
from runners.kernels.instructions import supports_int8
from runners.kernels.packed import OneDnnLinear, TiledLinear
from runners.start import start_runner
from tests.generators import pretrained_of
from tests.tiny import CORPUS, bert_config, byte_level_tokenizer, save, wordpiece_tokenizer

pytestmark = pytest.mark.skipif(not supports_tiles(), reason="this CPU has no AVX2")

_MASKED = [text.replace("the", "[MASK]", 1) for text in CORPUS if "the" in text]
_NEW = 8

#: Sizes that allow every optimization; no vocabulary is a multiple of 16.
_SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}


@dataclass(frozen=True)
class _Model:
    """Model with its requests, and the answers of plain transformers."""

    settings: ModelSettings
    items: list[Item]
    answers: list[Any]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> _Model:
    tokenizer = wordpiece_tokenizer()
    config = bert_config(tokenizer, vocab_size=len(tokenizer) + 16 - len(tokenizer) % 16 + 3, **_SIZES)
    folder = save(tmp_path_factory.mktemp("encoder"), BertForMaskedLM, config, tokenizer)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    answers = []
    with torch.inference_mode():
        for text in _MASKED:
            inputs = tokenizer(text, return_tensors="pt")
            place = int((inputs.input_ids[0] == tokenizer.mask_token_id).nonzero()[0])
            scores, tokens = model(**inputs).logits[0, place].softmax(-1).topk(3)
            answers.append(list(zip(tokens.tolist(), scores.tolist(), strict=True)))
    items = [Item(text, {"top_k": 3}) for text in _MASKED]
    return _Model(ModelSettings(storage_uri=str(folder), task="fill-mask", model_name="tested"), items, answers)


def _generating(folder: Path, task: str, auto_class: Any) -> _Model:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), auto_class.from_pretrained(folder)
    texts = CORPUS[:4]
    answers = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt").input_ids
        tokens = model.generate(inputs, max_new_tokens=_NEW, do_sample=False)[0]
        answers.append(tokenizer.decode(tokens, skip_special_tokens=True))
    settings = ModelSettings.model_validate({"storage_uri": str(folder), "task": task, "model_name": "tested"})
    return _Model(settings, [Item(text, {"max_new_tokens": _NEW}) for text in texts], answers)


@pytest.fixture(autouse=True)
def _tiles_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use tiles for models of any size, on any processor.

    Without kernels, another format is used.
    """
    monkeypatch.setattr(linear, "_pick_fastest_form", lambda _, __, tiled: tiled or OneDnnLinear)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> _Model:
    tokenizer = byte_level_tokenizer()
    config = LlamaConfig(
        **_SIZES, vocab_size=len(tokenizer) + 3, num_hidden_layers=2, num_key_value_heads=2, initializer_range=0.3,
        max_position_embeddings=128, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    folder = save(tmp_path_factory.mktemp("decoder"), LlamaForCausalLM, config, tokenizer)
    return _generating(folder, "text-generation", AutoModelForCausalLM)


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> _Model:
    tokenizer = wordpiece_tokenizer()
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=len(tokenizer) + 3, d_model=64, d_ff=128, d_kv=16, num_layers=2, num_heads=4,
        decoder_start_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id, initializer_factor=5.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    folder = save(tmp_path_factory.mktemp("seq2seq"), T5ForConditionalGeneration, config, tokenizer)
    return _generating(folder, "text2text-generation", AutoModelForSeq2SeqLM)


def _raise(*_: Any, **__: Any) -> Any:
    raise RuntimeError("shape '[1907, 384, 16, 1]' is invalid\nand more")


def _wrong(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a function by one that computes something else."""

    def computed(*given: Any, **named: Any) -> Any:
        return compute(*given, **named) + 1

    return computed


Patch = Callable[[pytest.MonkeyPatch], None]


def _raises(place: str) -> Patch:
    return _replaces(place, _raise)


def _replaces(place: str, value: Any) -> Patch:
    return lambda patch: patch.setattr(place, value)


def _no_compiler(*_: Any) -> Any:
    raise CompileError("kernels cannot be compiled: no compiler")


def _packs_wrongly(patch: pytest.MonkeyPatch) -> None:
    for form in (TiledLinear, OneDnnLinear):
        patch.setattr(form, "forward", _wrong(form.forward))


def _fuses_wrongly(patch: pytest.MonkeyPatch) -> None:
    from runners.kernels.fused import FusedNorm

    patch.setattr(FusedNorm, "__call__", _wrong(FusedNorm.__call__))
    patch.setattr("runners.kernels.fused._compute_same", lambda *_: True)


def _generates_wrong_logits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("runners.engines.generate.incremental_model.is_on_one_gpu", lambda _: True)
    wrong = SimpleNamespace(compute=lambda step, wanted: torch.zeros(len(wanted), 10_000))
    patch.setattr("runners.engines.generate.incremental_model.StepGraphs", lambda *_, **__: wrong)


def _captures_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("runners.engines.generate.incremental_model.is_on_one_gpu", lambda _: True)
    patch.setattr("runners.engines.generate.incremental_model.StepGraphs", _raise)


def _program_raises(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("runners.kernels.encoder_layers.EncoderProgram._allocate_program", _raise)
    patch.setattr("runners.engines.generate.fused_layers.FusedLayers._build_program", _raise)


def _program_computes_wrongly(patch: pytest.MonkeyPatch) -> None:
    from runners.engines.generate.fused_layers import FusedLayers
    from runners.kernels.encoder_layers import EncoderProgram

    patch.setattr(EncoderProgram, "_compute_all_layers", _wrong(EncoderProgram._compute_all_layers))
    patch.setattr(FusedLayers, "_compute_layers", _wrong(FusedLayers._compute_layers))


def _attention_kernels(fault: Callable[..., Any]) -> Patch:
    """Replace the kernels of attention by ones that do something else."""

    def decoded(step: Any, *given: Any) -> bool:
        return bool(step._kernels is not None and fault(*given))

    return _replaces("runners.engines.generate.step.Step._decode_by_kernel", decoded)


def _graphs_of_the_encoder_raise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("runners.tasks.fill_mask.FillMaskRunner.supports_cuda_graphs", True)
    patch.setattr("runners.models.padded_model.capture_batch_graphs", _raise)


def _merges_wrongly(patch: pytest.MonkeyPatch) -> None:
    from runners.kernels.merged import MergedLinear

    patch.setattr(MergedLinear, "compute_part", _wrong(MergedLinear.compute_part))


def _quantizes_wrongly(patch: pytest.MonkeyPatch) -> None:
    from runners.kernels.int8 import Int8Linear

    patch.setattr(Int8Linear, "forward", _wrong(Int8Linear.forward))


def _steps_raise_with_optimizations(patch: pytest.MonkeyPatch) -> None:
    """Make incremental decoding fail in a way that no check foresees."""
    from runners.tasks.encoder import EncoderRunner
    from runners.tasks.generation import GenerationRunner

    for kind in (EncoderRunner, GenerationRunner):
        forward = kind.warm_up

        def warm_up(self: Any, plain: Any = forward) -> None:
            if self.settings.acceleration:
                _raise()
            plain(self)

        patch.setattr(kind, "warm_up", warm_up)


_NO_ROWS = BatchPlan(BatchLimits(0, 0), Parallelism(0))

#: Optimization, model, function that makes it fail.
_FAULTS: list[tuple[str, str, str, Patch]] = [
    *(
        fault
        for model in ("encoder", "decoder", "seq2seq")
        for fault in (
            (
                "kernels", model, "is not compiled",
                _replaces("runners.kernels.compiler.Compiler.get_kernel", _no_compiler),
            ),
            ("kernels", model, "raises", _raises("runners.models.pretrained.start_compiler")),
            ("trial", model, "raises", _raises("runners.kernels.weights._compute_trial_output")),
            ("merge", model, "raises", _raises("runners.kernels.weights.merge_layers")),
            ("merge", model, "is wrong", _merges_wrongly),
            ("pack", model, "raises", _raises("runners.kernels.weights.pack_layers")),
            ("pack", model, "raises while forms are tried", _raises("runners.kernels.weights.choose_forms")),
            ("pack", model, "raises in panels", _raises("runners.kernels.packed.pack_panels")),
            ("pack", model, "is wrong", _packs_wrongly),
            ("all", model, "raises", _steps_raise_with_optimizations),
        )
    ),
    *(
        fault
        for model in ("decoder", "seq2seq")
        for fault in (
            ("fuse", model, "raises", _raises("runners.kernels.weights.fuse_modules")),
            ("fuse", model, "is wrong", _fuses_wrongly),
        )
    ),
    ("unpadded", "encoder", "raises", _raises("runners.kernels.unpadded._attend_sequences")),
    (
        "unpadded", "encoder", "is wrong",
        _replaces("runners.kernels.unpadded._attend_sequences", lambda q, k, v, *_: v + 1),
    ),
    *(
        ("program", model, how, patch)
        for model in ("encoder", "decoder")
        for how, patch in (("raises", _program_raises), ("is wrong", _program_computes_wrongly))
    ),
    ("attention", "decoder", "raises", _attention_kernels(_raise)),
    ("attention", "decoder", "is wrong", _attention_kernels(lambda *_: True)),
    ("continuous", "decoder", "raises", _raises("runners.engines.generate.step.Step.attend")),
    ("graphs", "decoder", "raises", _captures_nothing),
    ("graphs", "decoder", "is wrong", _generates_wrong_logits),
    ("graphs", "encoder", "raises", _graphs_of_the_encoder_raise),
    ("calibration", "encoder", "raises", _raises("runners.tasks.encoder.calibrate")),
    ("calibration", "encoder", "is wrong", _replaces("runners.tasks.encoder.calibrate", lambda *_, **__: _NO_ROWS)),
    ("calibration", "decoder", "raises", _raises("runners.engines.generate.decoders.calibrate_steps")),
    (
        "calibration", "decoder", "is wrong",
        _replaces("runners.engines.generate.decoders.calibrate_steps", lambda *_, **__: StepPlan(0, 0)),
    ),
]  # fmt: skip


def _check(runner: Runner[Any, Any, Any, Any], model: _Model) -> None:
    for answer, right in zip(runner.predict(model.items), model.answers, strict=True):
        if isinstance(right, str):
            assert answer[0]["generated_text"] == right
        else:
            assert [(one["token"], pytest.approx(one["score"], abs=1e-5)) for one in answer] == right


@pytest.mark.parametrize("name", ["encoder", "decoder", "seq2seq"])
def test_without_a_fault_every_optimization_is_active(name: str, request: pytest.FixtureRequest) -> None:
    model: _Model = request.getfixturevalue(name)
    runner = start_runner(model.settings)
    assert runner.fallbacks.failed == []
    kinds = {type(module).__name__ for module in pretrained_of(runner).model.modules()}
    assert {"MergedLinear", "TiledLinear"} <= kinds
    _check(runner, model)


@pytest.mark.parametrize(
    ("value", "name", "patch"),
    [(optimization, name, patch) for optimization, name, _, patch in _FAULTS],
    ids=[f"{optimization} of the {name} {how}" for optimization, name, how, _ in _FAULTS],
)
def test_a_failed_optimization_is_left_out_with_a_warning_and_answers_stay_right(
    value: str,
    name: str,
    patch: Patch,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    model: _Model = request.getfixturevalue(name)
    settings, optimization = model.settings, next(one for one in Optimization if one.value == value)
    if optimization is Optimization.CALIBRATION:
        settings = settings.model_copy(update={"calibration_seconds": 1.0, "storage_cache": tmp_path})
    patch(monkeypatch)
    runner = start_runner(settings)
    # Incremental decoding needs our own attention, with or without kernels.
    also = [Optimization.ATTENTION] if optimization is Optimization.CONTINUOUS else []
    assert runner.fallbacks.failed == [*also, optimization]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    said = f"tested: {optimization.description} failed, so {optimization.consequence}: "
    assert sum(text.startswith(said) for text in warnings) == 1
    assert not any("\n" in text for text in warnings)
    _check(runner, model)


@pytest.mark.skipif(not supports_int8(), reason="this CPU has no VNNI")
@pytest.mark.parametrize(
    "patch", [_raises("runners.kernels.weights.quantize_layers"), _quantizes_wrongly], ids=["raises", "wrong"]
)
@pytest.mark.parametrize("name", ["encoder", "decoder", "seq2seq"])
def test_a_model_that_int8_fails_on_is_served_in_full_precision(
    name: str, patch: Patch, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: _Model = request.getfixturevalue(name)
    patch(monkeypatch)
    runner = start_runner(model.settings.model_copy(update={"quantization": "int8"}))
    assert runner.fallbacks.failed == [Optimization.INT8]
    _check(runner, model)


def test_a_failure_without_optimizations_too_is_the_models_own_error(
    encoder: _Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.tasks.encoder.EncoderRunner.warm_up", _raise)
    with pytest.raises(RuntimeError, match="shape"):
        start_runner(encoder.settings)


def test_a_model_that_fails_to_load_is_tried_once(encoder: _Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[None] = []

    def load(*_: Any, **__: Any) -> Any:
        tried.append(None)
        raise LoadError("it is damaged")

    monkeypatch.setattr("runners.tasks.encoder.load_pretrained", load)
    with pytest.raises(LoadError, match="damaged"):
        start_runner(encoder.settings)
    assert len(tried) == 1
