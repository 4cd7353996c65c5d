"""Promise: the reference tables of docs/ match the code, and no link of the site is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, SecretStr

from commands.write_reference.__main__ import DOCS, main, stale_pages
from commands.write_reference.pages import PageError, render, table
from commands.write_reference.tables import TABLES, left_out, setting_fields
from commands.write_reference.values import default_of, values_of
from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.tasks import TASKS
from tests.project import ROOT


def test_no_reference_table_is_stale() -> None:
    stale = [str(page.relative_to(ROOT)) for page in stale_pages(DOCS)]
    assert stale == [], "run `make reference`"


def test_the_check_names_a_stale_page_and_the_command_that_updates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    for page in DOCS.rglob("*.md"):
        copy = docs / page.relative_to(DOCS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    errors = docs / "errors.md"
    good = errors.read_text(encoding="utf-8")
    errors.write_text(good.replace("`overloaded`", "`busy`"), encoding="utf-8")
    monkeypatch.setattr("commands.write_reference.__main__.DOCS", docs)
    assert main(["--check"]) == 1
    assert "docs/errors.md is stale: run `make reference`." in capsys.readouterr().err
    assert main([]) == 0
    assert errors.read_text(encoding="utf-8") == good
    assert main(["--check"]) == 0


def test_a_setting_or_a_task_must_be_in_exactly_one_table() -> None:
    settings, tasks = list(setting_fields()), list(TASKS)
    assert list(left_out(settings, tasks)) == []
    assert list(left_out(settings[1:], [*tasks, "fill-mask"])) == [
        f"the setting {settings[0]} must be in one marker of docs/, and is in 0",
        "the task fill-mask must be in one marker of docs/, and is in 2",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- reference: parameters -->\n<!-- /reference -->", "a table of parameters needs one task"),
        ("<!-- reference: nonsense -->\n<!-- /reference -->", "no table is called 'nonsense'"),
        ("<!-- reference: errors -->\n", "has no"),
        ("<!-- reference: settings NOPE -->\n<!-- /reference -->", "no setting is called NOPE"),
        ("<!-- reference: parameters nope -->\n<!-- /reference -->", "no task is called nope"),
    ],
)
def test_a_wrong_marker_is_an_error(text: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        render(text, TABLES)


def test_only_the_text_between_the_markers_changes() -> None:
    page = "# Title\n\n<!-- reference: one a b -->\nold\n<!-- /reference -->\n\nThe end.\n"
    written = render(page, {"one": lambda words: table(["Name"], [[word] for word in words])})
    assert written == (
        "# Title\n\n<!-- reference: one a b -->\n\n| Name |\n|---|\n| a |\n| b |\n\n<!-- /reference -->\n\nThe end.\n"
    )


class _Fields(Parameters):
    required: str
    limited: int = Field(3, ge=1, le=1000)
    open_ended: float | None = Field(None, gt=0)
    choice: Literal["a", "b"] = "a"
    secret: SecretStr | None = None
    flag: bool = True
    several: list[str] = Field(["x"])


def test_a_field_without_a_description_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(TASKS["fill-mask"], parameters=_Fields)
    monkeypatch.setattr("commands.write_reference.tables.TASKS", {"fill-mask": spec})
    with pytest.raises(PageError, match="the field of required has no description"):
        render("<!-- reference: parameters fill-mask -->\n<!-- /reference -->", TABLES)


@pytest.mark.parametrize(
    ("name", "values", "default"),
    [
        ("required", "string", "required"),
        ("limited", "whole number, 1 to 1,000", "`3`"),
        ("open_ended", "number, over 0", "unset"),
        ("choice", "`a`, `b`", "`a`"),
        ("secret", "string, secret", "unset"),
        ("flag", "`true`, `false`", "`true`"),
        ("several", "list of strings", '`["x"]`'),
    ],
)
def test_a_field_is_shown_with_its_values_and_its_default(name: str, values: str, default: str) -> None:
    field = _Fields.model_fields[name]
    assert (values_of(field), default_of(field)) == (values, default)


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "benchmarks" / "results" / "serving.png").is_file()


def test_a_link_to_a_file_that_does_not_exist_breaks_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Title\n\n[gone](../gone.md)\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"site_name: x\nhooks: ['{ROOT / 'commands' / 'docs_links.py'}']\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "links to 'gone.md', which does not exist" in done.stderr
