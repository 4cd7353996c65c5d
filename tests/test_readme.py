"""Promise: the README names every setting and every status, and its examples are requests that the protocol takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import AliasChoices

from errors import HTTP_STATUS
from protocols.kserve_v1 import parse
from settings import ModelSettings, ServerSettings, Task

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
CURL = re.compile(r"curl [^\n]*/v1/models/([\w-]+):predict[^\n]* -d '(.*?)'\n", re.DOTALL)


def _variables() -> list[str]:
    names: list[str] = []
    for kind in (ModelSettings, ServerSettings):
        for field in kind.model_fields.values():
            alias = field.validation_alias
            if alias is not None:
                names.append(str(alias.choices[0]) if isinstance(alias, AliasChoices) else str(alias))
    return list(dict.fromkeys(names))


@pytest.mark.parametrize("variable", _variables())
def test_every_setting_is_in_the_table(variable: str) -> None:
    assert f"`{variable}`" in README.split("## Settings")[1]


@pytest.mark.parametrize("status", sorted(set(HTTP_STATUS.values())))
def test_every_status_is_in_the_table(status: int) -> None:
    assert re.search(rf"^\| [\d, ]*\b{int(status)}\b", README, re.MULTILINE)


def test_every_task_has_an_example_that_parses() -> None:
    examples = dict(CURL.findall(README))
    assert set(get_args(Task)) <= set(examples)
    for body in examples.values():
        assert parse(body.replace("'\\''", "'").encode(), max_instances=10).instances
