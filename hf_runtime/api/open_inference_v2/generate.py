"""The generate extension: a text in, a text out, whole or as it is written.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/generate_rest.yaml
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic import Field

from hf_runtime.api.http.json_body import encode, finite_logprob
from hf_runtime.api.open_inference_v2.schema import RequestModel
from hf_runtime.api.streaming import Chunk
from hf_runtime.contract.errors import InvalidRequest, ServingError

#: Parameters that mean nothing unless tokens are drawn.
_SAMPLING = ("temperature", "top_k", "top_p", "seed")

_COUNTS = ("prompt_tokens", "cached_tokens", "generated_tokens")


class GenerateRequest(RequestModel):
    """A body of `generate` or `generate_stream`."""

    id: str = Field(default_factory=lambda: str(uuid4()))
    text_input: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    def item(self, *, stream: bool) -> tuple[Any, dict[str, Any]]:
        """The text, with its parameters as the tasks that generate text know them.

        The answer is the new text alone, drawn if anything says how, unless the parameters say otherwise. Triton's
        examples repeat in `stream` which route they ask.

        Args:
            stream: whether the text is answered in pieces.

        Raises:
            InvalidRequest: names a parameter.
        """
        parameters = {"return_full_text": False, **self.parameters}
        said = parameters.pop("stream", stream)
        if not isinstance(said, bool):
            raise InvalidRequest("must be true or false", field="parameters.stream")
        if said and not stream:
            raise InvalidRequest("generate answers whole, generate_stream in pieces", field="parameters.stream")
        if "max_tokens" in parameters:
            if "max_new_tokens" in parameters:
                raise InvalidRequest("is the same as max_new_tokens, set one of them", field="parameters.max_tokens")
            parameters["max_new_tokens"] = parameters.pop("max_tokens")
        if parameters.get("num_return_sequences", 1) != 1:
            raise InvalidRequest("one text is answered here", field="parameters.num_return_sequences")
        if any(parameters.get(name) is not None for name in _SAMPLING):
            parameters.setdefault("do_sample", True)
        if self._detailed:
            parameters.setdefault("logprobs", 0)
        return self.text_input, parameters

    @property
    def _detailed(self) -> bool:
        return self.parameters.get("details") is True

    def place(self, _: int) -> str:
        """What the client calls the instance."""
        return "text_input"

    def response(self, model_name: str, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The whole answer."""
        (written,) = answer
        details = {"details": _details(written)} if self._detailed else {}
        return {"model_name": model_name, "id": self.id, "text_output": written["generated_text"], **details}

    def events(self, model_name: str, chunks: Sequence[Chunk]) -> bytes:
        """Server-sent events for the next pieces; the last tells why the text ends, or what went wrong."""
        head = {"model_name": model_name, "id": self.id}
        deltas = [chunk.delta for chunk in chunks if chunk.delta is not None]
        return b"".join(b"data: " + encode(head | self._event(delta)) + b"\n\n" for delta in deltas)

    def _event(self, delta: Mapping[str, Any] | ServingError) -> dict[str, Any]:
        if isinstance(delta, ServingError):
            return {"text_output": "", "error": in_clients_terms(delta).message}
        details = {"details": _details(delta)} if self._detailed or "finish_reason" in delta else {}
        return {"text_output": delta["generated_text"], **details}


def in_clients_terms(error: ServingError) -> ServingError:
    """Return a runner's error with the protocol's name of a parameter."""
    return error.renamed(lambda name: f"parameters.{'max_tokens' if name == 'max_new_tokens' else name}")


def _details(written: Mapping[str, Any]) -> dict[str, Any]:
    details = {name: written[name] for name in _COUNTS if name in written}
    if "finish_reason" in written:
        details = {"finish_reason": _finish_reason(written), **details}
    return {**details, "logprobs": [_token(token) for token in written.get("logprobs") or ()]}


def _finish_reason(written: Mapping[str, Any]) -> str:
    if written["finish_reason"] == "stop":
        return "stop_sequence" if "stop_sequence" in written else "eos_token"
    return str(written["finish_reason"])


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    logprob = finite_logprob(token)
    return {"id": token["id"], "text": token["token"], "logprob": logprob, "special": token["special"]}
