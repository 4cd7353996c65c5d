"""Server whose models answer by script, with OpenAI's own client for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from openai import OpenAI
from starlette.applications import Starlette
from starlette.testclient import TestClient

from hf_runtime.api.app import create_app
from hf_runtime.api.http.api_keys import KeyRing
from hf_runtime.api.inference import Models
from hf_runtime.contract.errors import ServingError
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.tokenization import TokenizerAnswer, TokenizerRequest
from hf_runtime.rpc.client import Answer, RunnerClient
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ServerSettings

#: Scripted answer of the item with that index: an error; deltas, the last of which may be an error; an answer;
#: or None for no answer.
Script = Callable[[int], Any]


class ScriptedClient(RunnerClient):
    """Client that answers by its script and records submitted and cancelled items."""

    def __init__(self, name: str, state: ModelState) -> None:
        super().__init__(name, lambda: None)
        self.state = state
        self._outbox = object()  # type: ignore[assignment]  # stands for a connection
        self.script: Script = lambda _: [generated_result("an answer")]
        #: Size of each answer on the wire, in bytes.
        self.size = 0
        self.submitted: list[tuple[Any, dict[str, Any]]] = []
        #: What the tokenizer was asked for, and its answer.
        self.tokenized: list[TokenizerRequest] = []
        self.tokens: TokenizerAnswer | ServingError = {
            "tokens": [1, 2, 3], "token_strs": None, "text": "abc", "max_length": 64
        }  # fmt: skip
        self.cancelled: list[int] = []

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        self.check_ready()
        index = len(self.submitted)
        self.submitted.append((instance, parameters))
        future = Answer(loop=asyncio.get_running_loop())
        future.size = self.size
        future.add_done_callback(lambda done: self.cancelled.extend([index] * done.cancelled()))
        answer = self.script(index)
        if isinstance(answer, ServingError):
            future.set_exception(answer)
        elif answer is not None:
            self._follow(answer, listener, future)
        elif listener is not None:
            listener.on_accepted()
        return future

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[TokenizerAnswer]:
        self.check_ready()
        self.tokenized.append(request)
        future: asyncio.Future[TokenizerAnswer] = asyncio.get_running_loop().create_future()
        if isinstance(self.tokens, ServingError):
            future.set_exception(self.tokens)
        else:
            future.set_result(self.tokens)
        return future

    def _follow(self, answer: Any, listener: StreamListener | None, future: asyncio.Future[Any]) -> None:
        if listener is None:
            future.set_result(answer)
            return
        listener.on_accepted()
        for delta in answer:
            if isinstance(delta, ServingError):
                future.set_exception(delta)
                return
            listener.on_delta(delta)
        future.set_result(None)

    @property
    def instances(self) -> list[Any]:
        return [instance for instance, _ in self.submitted]

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return [parameters for _, parameters in self.submitted]


def generated_result(
    text: str, reason: str = "stop", prompt: int = 3, generated: int = 2, **more: Any
) -> dict[str, Any]:
    """Return the answer of a generative model, or its last delta."""
    counts = {"finish_reason": reason, "prompt_tokens": prompt, "generated_tokens": generated}
    return {"generated_text": text, **counts, **more}


def token(text: str, logprob: float, *top: tuple[str, float], raw: bytes | None = None) -> dict[str, Any]:
    """Return a generated token with its likeliest alternatives."""
    entries = [
        {"token": name, "id": 7, "logprob": value, "bytes": list(name.encode())}
        for name, value in ((text, logprob), *top)
    ]
    return {**entries[0], "bytes": list(text.encode() if raw is None else raw), "top": entries[1:]}


@dataclass
class Server:
    """Server with its HTTP clients and its scripted models."""

    http: TestClient
    openai: OpenAI
    writer: ScriptedClient
    embedder: ScriptedClient

    def events(self, path: str, **body: Any) -> list[Any]:
        """Return the objects of a stream, which must end properly."""
        response = self.http.post(f"/openai/v1/{path}", json={**body, "stream": True})
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        *events, done, nothing = response.text.split("\n\n")
        assert (done, nothing) == ("data: [DONE]", "")
        return [orjson.loads(event.removeprefix("data: ")) for event in events]


def app(clients: Sequence[ScriptedClient], **settings: Any) -> Starlette:
    """Return the whole application."""

    @asynccontextmanager
    async def nothing(_: Starlette) -> AsyncIterator[None]:
        yield

    models = Models(
        {client.name: client for client in clients},
        {"writer": "text-generation", "embedder": "feature-extraction", "classifier": "text-classification"},
    )
    server = ServerSettings(**settings)
    return create_app(models, server, nothing, keys=KeyRing(server.keys, server.api_keys_file))


@contextmanager
def serving(**settings: Any) -> Iterator[Server]:
    """Serve a generative, an embedding, a classification and a still loading model."""
    writer, embedder, classifier = (
        ScriptedClient(name, ModelState("ready")) for name in ("writer", "embedder", "classifier")
    )
    slow = ScriptedClient("slow", ModelState("loading"))
    served = app([writer, embedder, classifier, slow], **settings)
    with TestClient(served, raise_server_exceptions=False) as http:
        client = OpenAI(base_url="http://testserver/openai/v1", api_key="none", http_client=http, max_retries=0)
        yield Server(http, client, writer, embedder)
