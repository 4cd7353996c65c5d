"""Promise: `python -m commands.precisions` compares precisions in the terms of each task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from commands.precisions import __main__ as command
from commands.precisions import measuring
from commands.precisions.choices import FASTER, FLOAT32, Precision, device
from commands.precisions.comparing import (
    compare_entities,
    compare_fillings,
    compare_labels,
    compare_spans,
    compare_texts,
    compare_vectors,
)
from commands.precisions.measuring import Failed, PrecisionResult, measure, measure_in_process
from commands.precisions.sentences import SENTENCES
from commands.precisions.trials import TRIALS, read_instances
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.tasks import TASKS
from hf_runtime.settings import ModelSettings, SettingsError, Task
from tests.e2e.checkpoints import CHECKPOINTS, inference_service, text_classification
from tests.project import ROOT


def _labels(**scores: float) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in scores.items()]


def test_labels_are_compared_by_the_first_and_scores_by_name() -> None:
    reference = [_labels(good=0.9, bad=0.1), _labels(good=0.51, bad=0.49)]
    answers = [_labels(good=0.9, bad=0.1), _labels(bad=0.53, good=0.47)]
    assert compare_labels(reference, answers) == "1 of 2 labels the same, scores moved by 0.020, at most 0.040"
    assert compare_labels(reference, reference) == "2 of 2 labels the same, scores moved by 0.000, at most 0.000"


def test_a_small_change_is_not_rounded_to_zero_and_nan_is_not_hidden() -> None:
    reference = [_labels(good=0.9)]
    assert compare_labels(reference, [_labels(good=0.9001)]).endswith("moved by under 0.001, at most under 0.001")
    assert compare_labels(reference, [_labels(good=float("nan"))]).endswith("at most nan")


def _entity(label: str, start: int | None, end: int | None, kind: str = "entity_group", **more: int) -> dict[str, Any]:
    return {kind: label, "start": start, "end": end, **more}


def test_a_moved_missing_or_new_entity_is_a_difference() -> None:
    reference = [[_entity("PER", 0, 4), _entity("LOC", 9, 14)], [_entity("ORG", 0, 5)]]
    assert compare_entities(reference, reference) == "3 of 3 entities the same"
    answers = [[_entity("PER", 0, 4), _entity("LOC", 9, 12)], [_entity("LOC", 0, 5), _entity("PER", 7, 9)]]
    assert compare_entities(reference, answers) == "1 of 5 entities the same"
    assert compare_entities([[]], [[]]) == "0 of 0 labelled tokens the same"


def test_tokens_without_offsets_are_identified_by_their_index() -> None:
    reference = [[_entity("B-PER", None, None, "entity", index=1), _entity("O", None, None, "entity", index=2)]]
    answers = [[_entity("O", None, None, "entity", index=2)]]
    assert compare_entities(reference, answers) == "1 of 2 labelled tokens the same"


def test_answers_to_questions_are_compared_and_scores_of_the_same_ones() -> None:
    reference = [{"answer": "Vienna", "score": 0.9}, {"answer": "1878", "score": 0.5}]
    answers = [{"answer": "Vienna", "score": 0.88}, {"answer": "in 1878", "score": 0.1}]
    assert compare_spans(reference, answers) == "1 of 2 answers the same, their scores moved at most 0.020"
    assert compare_spans(reference[1:], answers[1:]) == "0 of 1 answers the same"


def test_the_first_token_of_each_mask_is_compared() -> None:
    france, paris = {"token": 7, "score": 0.8}, {"token": 8, "score": 0.1}
    reference: list[Any] = [[france, paris], [[france, paris], [paris]]]
    answers: list[Any] = [[{**france, "score": 0.7}, paris], [[paris, france], [paris]]]
    assert compare_fillings(reference, answers) == "2 of 3 first tokens the same, their scores moved at most 0.100"


def test_vectors_are_compared_by_their_angle_and_those_of_tokens_by_their_mean() -> None:
    reference = [np.array([1.0, 0.0]), np.array([[[2.0, 2.0], [0.0, 0.0]]])]
    answers = [np.array([3.0, 0.0]), np.array([[[1.0, 0.0], [0.0, 0.0]]])]
    assert compare_vectors(reference, answers) == "cosine with the vectors of float32 0.8536, at least 0.7071"


def _texts(*texts: str) -> list[Any]:
    return [[{"generated_text": text}] for text in texts]


def test_texts_are_compared_whole_and_by_how_they_begin() -> None:
    reference, answers = _texts("one two", "abcd", ""), _texts("one two", "abxdefgh", "")
    expected = "2 of 3 texts the same, on average the first 75% of their characters"
    assert compare_texts(reference, answers) == expected


@pytest.mark.parametrize("task", TASKS)
def test_a_small_model_answers_the_built_in_instances_of_its_task(task: Task, tmp_path: Path) -> None:
    settings = ModelSettings(
        storage_uri=str(CHECKPOINTS[task](tmp_path / "model")), task=task, torch_threads=1, do_sample=True
    )
    measured = measure(FLOAT32.applied(settings), None, 0)
    assert len(measured.answers) == len(SENTENCES)
    assert min(measured.alone, measured.together) > 0
    told = TRIALS[task].compare(measured.answers, measured.answers)
    if task == "feature-extraction":
        assert told.endswith("1.0000, at least 1.0000")
    else:
        same, whole = told.split()[0], told.split()[2]
        assert same == whole != "0"


def test_a_precision_replaces_the_configured_one() -> None:
    settings = ModelSettings(storage_uri="/model", load_in_4bit=True, torch_dtype="bfloat16")
    for precision in (FLOAT32, *FASTER["cpu"], *FASTER["cuda"]):
        applied = precision.applied(settings)
        assert not applied.load_in_4bit
        assert applied.calibration_seconds == 0
        field = {"TORCH_DTYPE": "torch_dtype", "QUANTIZATION": "quantization", "LOAD_IN_8BIT": "load_in_8bit"}
        variable, value = precision.variable.split("=")
        assert str(getattr(applied, field[variable])).lower() == value


def test_the_command_prints_a_row_per_precision_and_one_line_per_failed_load(tmp_path: Path) -> None:
    config = tmp_path / "models.yaml"
    services = [
        inference_service("classifier", text_classification(tmp_path / "model"), {"TORCH_NUM_THREADS": "1"}),
        inference_service("missing", "/no/such/folder", {}),
    ]
    config.write_text(yaml.safe_dump_all(services))
    instances = tmp_path / "instances.jsonl"
    instances.write_text('"I love this movie!"\n\n{"text": "Paris.", "text_pair": "France."}\n')
    done = subprocess.run(
        [sys.executable, "-m", "commands.precisions", str(config), "--instances", str(instances), "--seconds", "0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith("Error: missing: STORAGE_URI: /no/such/folder does not exist")
    title, _, head, _, *rest = done.stdout.splitlines()
    assert title.startswith("classifier: text-classification, 2 instances")
    assert head == "| Precision | items/s alone | items/s together | MiB | Answers |"
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (r.split("|") for r in rest) if cells[1:]
    }
    faster = FASTER[device()]
    assert list(rows) == ["float32", *(precision.name for precision in faster)]
    assert rows["float32"][-1] == "what others are compared with"
    for precision in faster:
        alone, together, memory, answers = rows[precision.name]
        if precision.lacks() is not None:
            assert (alone, together, memory) == ("", "", "")
            assert answers.startswith("skipped: ")
        else:
            assert min(float(alone), float(together)) > 0
            assert " of 2 labels the same, scores moved by " in answers
            assert f"{precision.name} with {precision.variable}" in done.stdout.splitlines()[-2]


def _measured(monkeypatch: pytest.MonkeyPatch, *results: PrecisionResult | Failed | InvalidRequest) -> None:
    """Replace the command's measurements by these, on a CPU that computes everything."""
    waiting = list(results)

    def next_result(*_: Any) -> PrecisionResult | Failed:
        result = waiting.pop(0)
        if isinstance(result, InvalidRequest):
            raise result
        return result

    cpu = [Precision(p.name, p.variable, p.changes) for p in FASTER["cpu"]]
    monkeypatch.setattr(command, "measure_in_process", next_result)
    monkeypatch.setattr(command, "device", lambda: "cpu")
    monkeypatch.setattr(command, "FASTER", {"cpu": cpu})


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["precisions", *arguments])
    return command.main()


MEASURED = PrecisionResult(1.25, 1250, 3 << 20, [_labels(good=0.9)])


@pytest.mark.parametrize(
    ("results", "status", "lines"),
    [
        (
            (MEASURED, Failed("no | room\nat all"), MEASURED),
            0,
            [
                "| float32 | 1.25 | 1250 | 3 | what others are compared with |",
                "| bfloat16 | | | | failed: no / room at all |",
                "| int8 | 1.25 | 1250 | 3 | 1 of 1 labels the same, scores moved by 0.000, at most 0.000 |",
                "Turn on int8 with QUANTIZATION=int8.",
            ],
        ),
        (
            (Failed("no room"), MEASURED, Failed("no")),
            0,
            [
                "| float32 | | | | failed: no room |",
                "| bfloat16 | 1.25 | 1250 | 3 | nothing to compare with |",
                "Turn on bfloat16 with TORCH_DTYPE=bfloat16.",
            ],
        ),
        ((MEASURED, Failed("no"), Failed("no")), 0, ["No faster precision of it can be computed here."]),
        ((Failed("no"),) * 3, 1, ["Error: model: it could not be measured in any precision."]),
        ((InvalidRequest("instance 1: must be a string"),), 1, ["Error: model: instance 1: must be a string"]),
    ],
)
def test_a_precision_that_fails_is_a_row_and_the_others_continue(
    results: tuple[Any, ...],
    status: int,
    lines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _measured(monkeypatch, *results)
    monkeypatch.setenv("STORAGE_URI", str(text_classification(tmp_path / "model")))
    assert _run(monkeypatch) == status
    out, err = capsys.readouterr()
    assert [line for line in (out + err).splitlines() if line in lines] == lines


def test_a_killed_process_is_reported_and_the_environment_stays_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = dict(os.environ)
    # The process ends without a result.
    monkeypatch.setattr(measuring, "_run_process", print)
    settings = ModelSettings(storage_uri="/model", environment={"OF_THE_MODEL": "1"})
    result = measure_in_process(settings, None, 0)
    assert isinstance(result, Failed)
    assert "its process was ended" in result.reason
    assert dict(os.environ) == before


def test_an_instance_that_the_model_cannot_answer_is_named(tmp_path: Path) -> None:
    settings = ModelSettings(storage_uri=str(text_classification(tmp_path)), torch_threads=1)
    settings = settings.model_copy(update={"task": "text-classification"})
    with pytest.raises(InvalidRequest, match=r"^instance 2: must be a string"):
        measure(FLOAT32.applied(settings), ["A text.", 3], 0)


def test_a_custom_pipeline_is_refused_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = text_classification(tmp_path / "model")
    (folder / "custom_pipeline.py").write_text("raise SystemExit('this must not run')")
    monkeypatch.setenv("STORAGE_URI", str(folder))
    monkeypatch.setenv("TRUST_REMOTE_CODE", "true")
    assert _run(monkeypatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == "Error: model: the code in its custom_pipeline.py chooses its precision, so there is none to compare."
    )


def test_a_wrong_configuration_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STORAGE_URI", raising=False)
    for arguments in ([], [str(tmp_path / "none.yaml")], ["--instances", str(tmp_path / "none.jsonl")]):
        assert _run(monkeypatch, *arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"a text"\nno quotes\n', "line 2: is not JSON"),
        (b"\n\n", "holds no instances"),
        (b"\xff", "is not text in UTF-8"),
    ],
)
def test_an_invalid_file_of_instances_is_an_error_that_names_the_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "instances.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        read_instances(path)


def test_a_line_of_instances_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "instances.jsonl"
    path.write_text(json.dumps("a\u2028b", ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_instances(path) == ["a\u2028b"]
