"""Promise: README names every setting and status, and each of its examples is run by a test or listed with a reason.

`make readme-test` runs those that can be run (tests/e2e/test_readme_examples.py).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices

from hf_runtime.api.kserve_v1 import parse
from hf_runtime.contract.errors import HTTP_STATUS
from hf_runtime.contract.tasks import TASKS
from hf_runtime.settings import ModelSettings, ServerSettings
from tests.project import ROOT
from tests.readme import (
    DEMO,
    EXAMPLES,
    FROM_HUB,
    MODELS_OF,
    NOT_RUN,
    QUICKSTART,
    README,
    REQUESTS,
    Example,
    assert_printed,
    examples_of,
    why_not_run,
)


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
    bodies = {each.model: each.body for each in REQUESTS if ":predict" in each.code}
    assert set(TASKS) <= set(bodies)
    for body in bodies.values():
        assert parse(body.encode(), max_instances=10).instances


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.code.split("\n")[0])
def test_every_example_is_run_or_listed_with_a_reason(example: Example) -> None:
    is_run = [example in REQUESTS, example.code == QUICKSTART, example.code in FROM_HUB]
    assert sum(is_run) + len(why_not_run(example)) == 1, (
        "run it in test_readme_examples.py, or say in readme.py why not"
    )
    assert not example.printed or any(is_run), "an answer is printed that no test has seen"
    assert example not in REQUESTS or any(example.model in models for models in MODELS_OF.values())


def test_all_that_is_run_or_listed_is_in_readme() -> None:
    codes = [example.code for example in EXAMPLES]
    assert {QUICKSTART, *FROM_HUB} <= set(codes)
    assert f"`{DEMO}`" in README
    assert not [beginning for beginning in NOT_RUN if not any(code.startswith(beginning) for code in codes)]


def test_kserves_line_is_that_of_the_example() -> None:
    (shown,) = (yaml.safe_load(example.code) for example in EXAMPLES if example.language == "yaml")
    services = yaml.safe_load_all((ROOT / "deployment/kserve/inference-service.yaml").read_text())
    assert any(_merged(service, shown) == service for service in services)


def _merged(base: Any, other: Any) -> Any:
    """Both, with what `other` says where they differ."""
    if not (isinstance(base, dict) and isinstance(other, dict)):
        return other
    return {**base, **{key: _merged(base.get(key), value) for key, value in other.items()}}


def test_blocks_are_taken_apart_into_commands_and_what_they_print() -> None:
    text = (
        "Text\n\n```bash\none -a    # a remark\ntwo \\\n  -b '# no remark'\n# {\"a\":\n#   1}\n# …\n```\n\n"
        "```\nnot\n# bash\n```\n\n    indented\n\n```python\n# Why.\nprint(3)\n# 3\n```\n"
    )
    assert examples_of(text) == [
        Example("bash", "one -a"),
        Example("bash", "two \\\n  -b '# no remark'", '{"a": 1}\n…'),
        Example("", "not\n# bash\n"),
        Example("", "indented\n"),
        Example("python", "# Why.\nprint(3)\n", "3"),
    ]


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ('[{"a": 0.5, "b": "c d"}]', '[{"a":0.509,"b":"c d"}]'),
        ('{"id":"…","data":[0.1169…', '{"id":"x-1","data":[0.11694321,2]}'),
        ("[0.5,-0.25, … 4 numbers]", "[0.5,-0.25,1e-3,7]"),
        ('{"a":1}\n…\n{"a":3}', '{"a":1}\n{"a":2}\n{"b":2}\n{"a":3}\n'),
        ("plain words", "plain words\n"),
    ],
)
def test_an_answer_is_as_printed(printed: str, said: str) -> None:
    assert_printed(printed, said, 0.01)


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ('{"a":0.5}', '{"a":0.511}'),
        ('{"a":0.5}', '{"b":0.5}'),
        ('{"a":0.5}', '{"a":0.5,"b":1}'),
        ('{"a":5}', '{"a":5.001}'),
        ('{"a":5}', '{"a":51}'),
        ('{"a":"b c"}', '{"a":"b  c"}'),
        ("[0.5, … 4 numbers]", "[0.5,1,2]"),
        ("[0.5, … 4 numbers]", "[0.5,1,2,3,4]"),
        ('{"data":[0.1169…', '{"data":[0.2,0.1169]}'),
        ("plain words", "plain word"),
    ],
)
def test_another_answer_is_told_from_what_is_printed(printed: str, said: str) -> None:
    with pytest.raises(AssertionError, match="README prints"):
        assert_printed(printed, said, 0.01)
