"""Promise: a parser is chosen by vLLM's name, and a wrong name is answered with all names."""

from __future__ import annotations

import pytest

from hf_runtime.settings import SettingsError, load_settings
from hf_runtime.settings.kserve_arguments import parse_arguments


def test_a_wrong_parser_is_an_error_that_lists_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_URI", "hf://a/b")
    for name, known in (("REASONING_PARSER", ("none", "deepseek_r1")), ("TOOL_PARSER", ("hermes", "qwen3_coder"))):
        with monkeypatch.context() as changed:
            changed.setenv(name, "yaml")
            with pytest.raises(SettingsError) as error:
                load_settings()
        assert name in str(error.value)
        assert all(f"'{each}'" in str(error.value) for each in known)


def test_parsers_are_set_by_variables_and_by_the_arguments_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_URI", "hf://a/b")
    given = parse_arguments(["--reasoning-parser=qwen3", "--tool-call-parser", "hermes", "--enable-auto-tool-choice"])
    assert given == {"REASONING_PARSER": "qwen3", "TOOL_PARSER": "hermes"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (model,) = load_settings().models
    assert (model.reasoning_parser, model.tool_parser) == ("qwen3", "hermes")
