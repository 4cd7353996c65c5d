"""Promise: the server is ready once no model is loading, even if one of them has failed."""

from __future__ import annotations

import pytest

from hf_runtime.api.inference import Models
from hf_runtime.rpc.messages import ModelState, ModelStatus
from tests.hf_runtime.api.scripted_client import ScriptedClient


@pytest.mark.parametrize(
    ("states", "ready"),
    [
        (["ready"], True),
        (["loading"], False),
        (["failed"], False),
        (["ready", "failed"], True),
        (["ready", "loading"], False),
        (["unloaded"], True),
        (["unloading"], True),
        (["unloaded", "failed"], True),
        (["unloaded", "loading"], False),
    ],
)
def test_a_failed_or_unloaded_model_leaves_the_server_ready(states: list[ModelStatus], ready: bool) -> None:
    models = Models({str(number): ScriptedClient(str(number), ModelState(s)) for number, s in enumerate(states)})
    assert models.ready is ready


def test_a_restarting_model_leaves_the_server_ready() -> None:
    well, restarting = ScriptedClient("well", ModelState("ready")), ScriptedClient("restarting", ModelState("ready"))
    restarting.state = ModelState("loading")
    models = Models({"well": well, "restarting": restarting})
    assert models.ready
    well.state = ModelState("loading")
    assert not models.ready
