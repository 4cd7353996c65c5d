"""Promise: a process killed under load restarts; no client waits or gets a wrong answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.text_classification import TextClassificationRunner
from tests.e2e.clients import clients
from tests.e2e.server import Server
from tests.tiny import CORPUS

pytestmark = pytest.mark.xdist_group("plain")


@pytest.fixture(scope="module")
def right(plain_folder: Path) -> dict[str, Any]:
    words = " ".join(CORPUS).split()
    texts = list(dict.fromkeys(" ".join(words[i : i + 1 + i % 9]) for i in range(100)))
    oracle = TextClassificationRunner(ModelSettings(storage_uri=str(plain_folder), task="text-classification"))
    oracle.load()
    return dict(zip(texts, oracle.predict([Item(text) for text in texts]), strict=True))


def test_a_runner_killed_under_load_comes_back_and_its_clients_get_a_time_to_retry(
    plain_server: Server, right: dict[str, Any]
) -> None:
    for times in (2, 3):
        with clients(plain_server.url, right, number=16) as load:
            load.wait_for("200", 100)
            (runner,) = plain_server.runner_processes()
            runner.kill()
            load.wait_for("503")
            plain_server.wait_for("Model model is ready after", times=times)
            load.wait_for("200", 100)
        assert load.faults == []
        assert set(load.outcomes) == {"200", "503"}


def test_an_entry_service_killed_under_load_comes_back_and_no_client_waits_for_it(
    plain_server: Server, right: dict[str, Any]
) -> None:
    with clients(plain_server.url, right, number=16) as load:
        load.wait_for("200", 100)
        (entry,) = plain_server.entry_processes()
        entry.kill()
        load.wait_for("broken")
        load.wait_for("200", 100)
    assert load.faults == []
    assert set(load.outcomes) <= {"200", "503", "broken"}
    assert len(plain_server.entry_processes()) == 1


def test_the_runner_keeps_no_items_of_a_killed_process(plain_server: Server, right: dict[str, Any]) -> None:
    with clients(plain_server.url, right, number=4) as load:
        load.wait_for("200", 100)
    assert load.faults == []
    assert set(load.outcomes) == {"200"}
