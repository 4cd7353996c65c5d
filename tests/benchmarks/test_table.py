"""Promise: the tables of docs/speed.md show the results, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.serving import results, table
from tests.benchmarks.documents import document


def test_each_target_has_a_line_with_its_speed_for_each_number_of_clients() -> None:
    lines = table.short(document()).splitlines()
    assert lines[0].startswith("| embedding: requests/s by clients | 1 | 16 | p50 alone, ms | p99 at 16, ms |")
    assert lines[2].startswith("| ours | 50.0 | 160 | 20.0 | 50.0 | 12.0 | 700 |")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_failed_requests_are_shown() -> None:
    assert "| 80.0 (errors) |" in table.short(document())
    assert "3 (503: busy)" in table.full(document())


def test_a_target_that_was_not_measured_is_named_with_its_reason() -> None:
    shown = document()
    shown["workloads"]["embedding"]["targets"]["other"]["load"] = {"16": {"failed": "Other: 500"}}
    end = "Not measured, or not to the end: Other (500); Absent (is not for this platform)."
    assert table.short(shown).endswith(end)


def test_every_measurement_has_a_line() -> None:
    lines = table.full(document()).splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1


def test_only_the_text_between_the_marks_changes(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("# Title\n\n<!-- bench -->\nold\n<!-- /bench -->\n\nThe end.\n")
    for _ in range(2):
        table.write_page(document(), page=page)
        text = page.read_text()
        assert text.startswith("# Title\n\n<!-- bench -->\n| embedding")
        assert text.endswith("<!-- /bench -->\n\nThe end.\n")
        assert table.table_in(text) == table.short(document())


@pytest.mark.parametrize("text", ["", "<!-- bench -->", "<!-- bench --><!-- bench --><!-- /bench -->"])
def test_a_page_without_marks_for_the_table_stays_unchanged(tmp_path: Path, text: str) -> None:
    page = tmp_path / "speed.md"
    page.write_text(text)
    with pytest.raises(BenchmarkError, match=r"speed\.md must have the lines <!-- bench -->"):
        table.write_page(document(), page=page)
    assert page.read_text() == text


def test_figures_of_a_gpu_have_their_own_table_and_the_gpus_memory(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("<!-- bench -->\n<!-- /bench -->\n<!-- bench-gpu -->\n<!-- /bench-gpu -->\n")
    measured = document()
    measured["machine"]["gpu"] = "a GPU"
    for target in measured["workloads"]["embedding"]["targets"].values():
        target["gpu_memory_mib"] = 1234
    table.write_page(measured, "bench-gpu", page)
    assert page.read_text().startswith("<!-- bench -->\n<!-- /bench -->\n<!-- bench-gpu -->\n| embedding")
    shown = table.table_in(page.read_text(), "bench-gpu") or ""
    assert "| GPU MiB |" in shown
    assert "| 1,234 |" in shown


@pytest.mark.parametrize("folder", [results.FOLDER, results.FOLDER / "gpu", results.FOLDER / "avx2"])
def test_the_page_shows_the_committed_results(folder: Path) -> None:
    measured = results.read(folder)
    shown = table.table_in((ROOT / "docs" / "speed.md").read_text(encoding="utf-8"), results.name_of(folder))
    assert shown == table.short(measured)
