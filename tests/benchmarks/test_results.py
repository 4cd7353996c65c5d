"""Promise: several rounds become one figure each, and a failure in one spoils no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.processes import BenchmarkError
from benchmarks.serving import results
from benchmarks.serving.results import add_ratios, middle
from tests.benchmarks.documents import document, load


def test_rounds_become_medians_sums_and_the_worst_of_neighbours() -> None:
    rounds = [load(10.0, foreign_cores=0.5), load(30.0, errors=2, error="503"), load(20.0)]
    joined = middle(rounds)
    assert (joined["requests_per_second"], joined["errors"], joined["requests"]) == (20.0, 2, 270)
    assert (joined["foreign_cores"], joined["error"], joined["spread"]) == (0.5, "503", 1.0)


def test_a_round_that_failed_is_left_out() -> None:
    assert middle([{"failed": "no answer"}, load(10.0), load(20.0)])["requests_per_second"] == 15.0
    assert middle([{"failed": "no answer"}, {"failed": "again"}]) == {"failed": "no answer"}


def test_unknown_waiting_times_are_null() -> None:
    assert middle([load(10.0, p50_ms=None), load(10.0, p50_ms=4.0)])["p50_ms"] == 4.0
    assert middle([load(10.0, p50_ms=None)])["p50_ms"] is None


def test_ratios_are_to_the_bound_and_to_the_fastest_peer() -> None:
    result = document()["workloads"]["embedding"]
    result["targets"]["slower"] = {**result["targets"]["other"], "load": {"1": load(1.0), "16": load(1.0)}}
    result["offline"]["transformers"]["p50_ms"] = 40.0
    add_ratios(result)
    ours = result["targets"]["ours"]["load"]
    assert (ours["1"]["to_bound"], ours["1"]["to_best_peer"]) == (2.0, 1.25)
    assert (ours["16"]["to_bound"], ours["16"]["to_best_peer"]) == (1.6, 2.0)


def test_saved_results_can_be_loaded(tmp_path: Path) -> None:
    path = results.write(tmp_path, {"cores": 2}, {"rounds": 3}, document()["workloads"])
    assert path.read_text().count('\n"16": {"requests_per_second": ') == 2
    assert results.read(tmp_path)["workloads"] == document()["workloads"]


def test_missing_results_are_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="`make bench` writes it"):
        results.read(tmp_path)
