"""Promise: sentence-transformers' files are read as its own library reads them.

That includes old layouts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hf_runtime.contract.errors import LoadError
from runners.models.sentence_transformers import SentenceEmbedding, read_sentence_embedding

OLD = "sentence_transformers.models."


def _modules(*names: str, package: str = OLD) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{name}", "type": package + name}
        for i, name in enumerate(names)
    ]


def _read(folder: Path, files: Mapping[str, Any]) -> SentenceEmbedding:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_sentence_embedding(folder)


def test_a_folder_without_modules_has_no_pooling(tmp_path: Path) -> None:
    assert _read(tmp_path, {"sentence_bert_config.json": {"max_seq_length": 8}}) == SentenceEmbedding()


def test_all_minilm_is_read(tmp_path: Path) -> None:
    flags = {"word_embedding_dimension": 384, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    files = {
        "modules.json": _modules("Transformer", "Pooling", "Normalize"),
        "1_Pooling/config.json": flags,
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.0.0"}},
    }
    assert _read(tmp_path, files) == SentenceEmbedding(pooling="mean", normalize=True, max_length=256)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}, "max"),
        ({"pooling_mode_lasttoken": True}, "last_token"),
        ({"word_embedding_dimension": 8}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": True}, "last_token"),
        ({"pooling_mode": ["max"]}, "max"),
        ({"pooling_mode": "mean", "include_prompt": False}, "mean"),
    ],
)
def test_the_pooling_is_read_from_flags_or_from_its_name(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    package = "sentence_transformers.sentence_transformer.modules."
    files = {
        "modules.json": _modules("Transformer", "Pooling", "Dropout", package=package),
        "1_Pooling/config.json": config,
    }
    assert _read(tmp_path, files) == SentenceEmbedding(pooling=pooling)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("modules", "config", "general", "unsupported"),
    [
        (_modules("Transformer", "Pooling", "Dense"), {}, {}, "modules Transformer + Pooling + Dense"),
        (_modules("Transformer", "Normalize"), {}, {}, "modules Transformer + Normalize"),
        (_modules("StaticEmbedding"), {}, {}, "modules StaticEmbedding"),
        (_modules("Transformer", "Pooling", package="own_code."), {}, {},
         "modules own_code.Transformer + own_code.Pooling"),
        (_modules("Transformer", "Pooling"), {"pooling_mode": ["cls", "mean"]}, {}, "pooling cls + mean"),
        (_modules("Transformer", "Pooling"), {"pooling_mode_weightedmean_tokens": True}, {}, "pooling weightedmean"),
        (_modules("Transformer", "Pooling"), {"include_prompt": False},
         {"prompts": {"query": "query: "}, "default_prompt_name": "query"}, "pooling without the prompt"),
        (_modules("Transformer", "Pooling"), {}, {"truncate_dim": 128}, "truncate_dim 128"),
    ],
)  # fmt: skip
def test_an_unsupported_module_is_named_and_gives_no_pooling(
    tmp_path: Path, modules: Any, config: Any, general: Any, unsupported: str
) -> None:
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": config,
        "config_sentence_transformers.json": general,
        "sentence_bert_config.json": {"max_seq_length": 128},
    }
    read = _read(tmp_path, files)
    assert (read.unsupported, read.pooling, read.normalize) == (unsupported, None, False)
    assert read.max_length == 128


def test_the_default_prompt_is_used(tmp_path: Path) -> None:
    general = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "document"}
    files = {"modules.json": _modules("Transformer"), "config_sentence_transformers.json": general}
    assert _read(tmp_path, files).prompt == "passage: "
    assert _read(tmp_path, {"config_sentence_transformers.json": general | {"default_prompt_name": None}}).prompt == ""


def test_length_and_case_are_read_from_old_and_new_file_names(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "modules.json": [{"path": "0_Transformer", "type": OLD + "Transformer"}],
        "0_Transformer/sentence_distilbert_config.json": {"max_seq_length": 128, "do_lower_case": True},
    }
    assert _read(tmp_path, files) == SentenceEmbedding(max_length=128, lower_case=True)


@pytest.mark.parametrize(
    "files",
    [
        {"modules.json": "[{"},
        {"modules.json": {"a": 1}},
        {"modules.json": [{"type": OLD + "Transformer"}]},
        {"modules.json": _modules("Transformer", "Pooling")},
        {"modules.json": _modules("Transformer", "Pooling"), "1_Pooling/config.json": [1]},
        {"modules.json": [{"path": "../other", "type": OLD + "Transformer"}]},
        {"modules.json": _modules("Transformer"), "sentence_bert_config.json": {"max_seq_length": "long"}},
        {"modules.json": _modules("Transformer"), "config_sentence_transformers.json": "{"},
    ],
)
def test_a_damaged_file_is_an_error_of_one_sentence(tmp_path: Path, files: dict[str, Any]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(LoadError, match=r"model has damaged sentence-transformers files .* fetch it again\.$"):
        _read(folder, files)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    others: list[dict[str, Any]] = [{}, {"1_Pooling/other.json": {}}]
    for files in others:
        with pytest.raises(LoadError, match=r"\(1_Pooling/config\.json, which modules\.json asks for, is not there\)"):
            _read(folder, {"modules.json": _modules("Transformer", "Pooling"), **files})
