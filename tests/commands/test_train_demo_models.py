"""Promise: a demo model is trained once, and again when its training inputs have changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import train_demo_models
from commands.demo_models import text2text_generation
from commands.demo_models.training import Trained
from commands.train_demo_models import COUNTRYINFO, MINILM, STAMP, TASKS, make, trained_with

TASK = "text2text-generation"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Create a folder with a base model and facts of a few bytes."""
    for folder in (MINILM.folder, COUNTRYINFO.folder):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text(folder)
    return tmp_path


class Training:
    """Training that returns a model without computing and counts its calls."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, models: Path) -> Trained:
        self.times += 1
        return Trained(*text2text_generation.untrained(), 1.0, "examples")


def test_an_existing_model_is_not_trained_again(models: Path) -> None:
    training = Training()
    make(TASK, training, models)
    make(TASK, training, models)
    assert training.times == 1
    assert not list(models.glob(".training-*"))


def _another_base(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (models / MINILM.folder / "file").write_text("another")


def _another_library(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_demo_models, "version", lambda package: "999")


def _no_stamp(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (models / f"demo-{TASK}" / STAMP).unlink()


@pytest.mark.parametrize("change", [_another_base, _another_library, _no_stamp])
def test_a_model_is_trained_again_when_its_training_inputs_have_changed(
    models: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    training = Training()
    make(TASK, training, models)
    change(models, monkeypatch)
    make(TASK, training, models)
    make(TASK, training, models)
    assert training.times == 2


def test_a_model_depends_only_on_the_code_of_its_own_task(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = shutil.copytree(Path(train_demo_models.__file__).parent, tmp_path / "commands")
    monkeypatch.setattr(train_demo_models, "__file__", str(code / "train_demo_models.py"))
    before = {task: trained_with(task, models) for task in TASKS}
    with (code / "demo_models" / "fill_mask.py").open("a") as module:
        module.write("# changed\n")
    changed = {task for task in TASKS if trained_with(task, models) != before[task]}
    with (code / "demo_models" / "training.py").open("a") as module:
        module.write("# changed\n")
    assert changed == {"fill-mask"}
    assert not [task for task in TASKS if trained_with(task, models) == before[task]]


def test_an_interrupted_training_leaves_the_previous_model(models: Path) -> None:
    make(TASK, Training(), models)
    kept = models / f"demo-{TASK}" / STAMP
    kept.write_text("older")

    def interrupted(models: Path) -> Trained:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(TASK, interrupted, models)
    assert kept.read_text() == "older"
