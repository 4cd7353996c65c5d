"""Promise: commands of README and docs/ start the server, and answers match the pages.

`make readme-test` uses the real models of `make demo`. `tests/readme.py` lists the examples that cannot be run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from tests.documents import serve_document_models
from tests.e2e.checkpoints import text_classification
from tests.e2e.server import SERVED, SETTLED, Server
from tests.readme import FROM_HUB, MODELS_OF, PATH, REQUESTS, Example, assert_matches_page
from tests.runners.storage import fake_hub

pytestmark = [pytest.mark.readme, pytest.mark.xdist_group("readme")]

#: Tolerance for fractions on a page. Training on another processor accumulates rounding
#: differences with every step; a fetched model differs by one forward pass only.
TRAINED, FETCHED = 0.02, 1e-4


class ByCommand(Server):
    """Server that a command starts, with the settings that a reader has."""

    def __init__(self, command: str, variables: Mapping[str, str]) -> None:
        self._line = command
        super().__init__({**variables, "PATH": PATH}, bento=None)

    def _command(self, arguments: Sequence[str]) -> Sequence[str]:
        as_readers_have_it = ["--unset=TORCH_NUM_THREADS", "--unset=CALIBRATION_SECONDS"]
        port = [f"PORT={self.port}", f"BENTOML_PORT={self.port}"]
        return ["env", *as_readers_have_it, *port, "bash", "-c", self._line]


@contextmanager
def _started(command: str, models: int, variables: Mapping[str, str] | None = None) -> Iterator[ByCommand]:
    server = ByCommand(command, variables or {})
    try:
        server.wait_for(SETTLED, times=models, timeout=300)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[ByCommand]:
    """Start the server by the command in the parameter; one at a time."""
    with _started(request.param, len(MODELS_OF[request.param])) as server:
        yield server


@pytest.mark.parametrize("server", MODELS_OF, indirect=True)
def test_examples_are_answered_as_their_page_prints(
    server: ByCommand, request: pytest.FixtureRequest, subtests: pytest.Subtests
) -> None:
    models = MODELS_OF[request.node.callspec.params["server"]]
    for example in REQUESTS:
        if (uri := models.get(str(example.model))) is not None:
            with subtests.test(example.code):
                said = example.run(server.port)
                assert said.strip()
                if example.printed:
                    assert_matches_page(example.printed, said, TRAINED if uri.startswith(".models/demo-") else FETCHED)


def _suggested_commands(server: Server) -> list[Example]:
    """Return the commands that a start prints at its end; fail if a model is not served."""
    log = "\n".join(server.log)
    assert server.count(SERVED) == server.count(SETTLED), log
    return [Example("bash", command) for command in re.findall(rf"{SERVED}\n(curl .*)", log)]


@pytest.mark.parametrize("server", MODELS_OF, indirect=True)
def test_a_start_ends_in_requests_that_are_answered(server: ByCommand) -> None:
    for example in _suggested_commands(server):
        assert "predictions" in orjson.loads(example.run()), example.code


@pytest.mark.parametrize("command", sorted(FROM_HUB))
def test_a_command_finds_its_model_in_a_hub(tmp_path: Path, command: str) -> None:
    with fake_hub.serving() as hub, serve_document_models(tmp_path, hub) as variables:
        name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        hub.add(name, text_classification(tmp_path / "classifier"))
        if "serve" not in command:
            assert "ner-model" in Example("bash", command).run(variables=variables)
            return
        with _started(command, 1, variables) as server:
            (example,) = _suggested_commands(server)
            assert "predictions" in orjson.loads(example.run())
