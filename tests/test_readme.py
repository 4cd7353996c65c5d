"""Promise: README is short, its links work, and every example is tested or listed.

An example that is not run is listed with the reason. `make readme-test` runs the others
(tests/e2e/test_readme_examples.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from hf_runtime.api.kserve_v1 import parse
from hf_runtime.contract.errors import HTTP_STATUS
from hf_runtime.contract.tasks import TASKS
from hf_runtime.settings import load_settings
from tests.project import ROOT
from tests.readme import (
    DEMO,
    EXAMPLES,
    FROM_HUB,
    MODELS_OF,
    NOT_RUN,
    PAGES,
    QUICKSTART,
    README,
    REQUESTS,
    SERVICES,
    Example,
    assert_matches_page,
    list_reasons,
    parse_examples,
)


def test_readme_has_under_1500_words() -> None:
    assert len(README.split()) < 1500


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_link_points_to_an_existing_file(page: str) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))
    children = [child for token in tokens for child in token.children or ()]
    targets = [str(child.attrs.get("href", child.attrs.get("src", ""))) for child in children if child.attrs]
    files = [target.split("#")[0] for target in targets if "://" not in target]
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_page_that_readme_and_the_list_of_tasks_link(task: str) -> None:
    assert f"(docs/tasks/{task}.md)" in README
    assert f"({task}.md)" in PAGES["docs/tasks/index.md"]
    assert PAGES[f"docs/tasks/{task}.md"].startswith(f"# {task}\n")


def test_figures_of_readme_equal_those_of_the_speed_page() -> None:
    def cells(row: str) -> list[str]:
        return [cell.strip() for cell in row.split("|")[1:-1]]

    shown = [cells(line) for line in README.splitlines() if line.startswith("| this server, ")]
    measured = PAGES["docs/speed.md"].split("<!-- bench -->")[1].split("<!-- /bench -->")[0].split("\n\n")
    assert len(shown) == len(measured) == 3
    for name, *figures in shown:
        name = "ours" if name.endswith("float32") else f"ours, {name.removeprefix('this server, ')}"
        # Classification and embedding by 64 clients, generation by 16: the third column of each table.
        rows = [next(cells(line) for line in text.splitlines() if line.startswith(f"| {name} |")) for text in measured]
        assert [row[3] for row in rows] == figures


@pytest.mark.parametrize("status", sorted(set(HTTP_STATUS.values())))
def test_every_http_status_is_explained(status: int) -> None:
    explained = PAGES["docs/errors.md"].split("## What the message says")[1]
    assert re.search(rf"^\| [\d, ]*\b{int(status)}\b", explained, re.MULTILINE)


def test_every_task_has_an_example_that_parses() -> None:
    bodies = [
        (each.model, each.body) for each in REQUESTS if ":predict" in each.code and "cloudevents" not in each.code
    ]
    assert set(TASKS) <= {model for model, _ in bodies}
    for _, body in bodies:
        assert parse(body.encode(), max_instances=10).instances


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.code.split("\n")[0])
def test_every_example_is_run_or_listed_with_a_reason(example: Example) -> None:
    is_run = [example in REQUESTS, example.code == QUICKSTART, example.code in FROM_HUB, example in SERVICES]
    assert sum(is_run) + len(list_reasons(example)) == 1, (
        "run it in test_readme_examples.py, or say in readme.py why not"
    )
    assert not example.printed or any(is_run), "an answer is printed that no test has seen"
    assert example not in REQUESTS or any(example.model in models for models in MODELS_OF.values())


def test_every_tested_or_listed_example_is_in_a_page() -> None:
    codes = [example.code for example in EXAMPLES]
    assert {QUICKSTART, *FROM_HUB} <= set(codes)
    assert f"`{DEMO}`" in README
    assert not [beginning for beginning in NOT_RUN if not any(code.startswith(beginning) for code in codes)]


def test_kserves_line_equals_that_of_the_example() -> None:
    (shown,) = (yaml.safe_load(each.code) for each in EXAMPLES if each.language == "yaml" and each not in SERVICES)
    services = yaml.safe_load_all((ROOT / "deployment/kserve/inference-service.yaml").read_text())
    assert any(_merge(service, shown) == service for service in services)


@pytest.mark.parametrize("example", SERVICES, ids=lambda example: yaml.safe_load(example.code)["metadata"]["name"])
def test_an_inference_service_of_a_page_is_read_without_a_warning(example: Example, tmp_path: Path) -> None:
    config = tmp_path / "service.yaml"
    config.write_text(example.code)
    settings = load_settings(config)
    assert settings.models
    assert settings.notes == ()


def _merge(base: Any, other: Any) -> Any:
    """Merge two mappings; `other` wins where they differ."""
    if not (isinstance(base, dict) and isinstance(other, dict)):
        return other
    return {**base, **{key: _merge(base.get(key), value) for key, value in other.items()}}


def test_blocks_are_split_into_commands_and_their_output() -> None:
    text = (
        "Text\n\n```bash\none -a    # a remark\ntwo \\\n  -b '# no remark'\n# {\"a\":\n#   1}\n# …\n```\n\n"
        "```\nnot\n# bash\n```\n\n    indented\n\n```python\n# Why.\nprint(3)\n# 3\n```\n"
    )
    assert parse_examples(text) == [
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
def test_an_answer_that_matches_the_page_is_accepted(printed: str, said: str) -> None:
    assert_matches_page(printed, said, 0.01)


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
def test_an_answer_that_differs_from_the_page_is_rejected(printed: str, said: str) -> None:
    with pytest.raises(AssertionError, match="the page prints"):
        assert_matches_page(printed, said, 0.01)
