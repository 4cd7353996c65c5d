"""Generate extension: text in, generated text out, whole or streamed.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/generate_rest.yaml
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired
from uuid import uuid4

from pydantic import Field
from typing_extensions import TypedDict

from hf_runtime.api.http.json_body import clamp_logprob, encode_event
from hf_runtime.api.open_inference_v2.schema import RequestModel
from hf_runtime.api.streaming import Chunk
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import InvalidRequest, ServingError

#: Parameters that have an effect only when tokens are sampled.
_SAMPLING = ("temperature", "top_k", "top_p", "seed")

_COUNTS: tuple[Literal["prompt_tokens", "cached_tokens", "generated_tokens"], ...] = (
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
)

_FinishReason = Literal["length", "eos_token", "stop_sequence"]


@answer_type
class GeneratedToken(TypedDict):
    """A generated token."""

    id: int
    text: str
    logprob: float
    special: bool


class _EndDetails(TypedDict):
    finish_reason: NotRequired[_FinishReason]
    prompt_tokens: NotRequired[int]
    cached_tokens: NotRequired[int]
    generated_tokens: NotRequired[int]


@answer_type
class GenerateDetails(_EndDetails):
    """Finish reason, token counts and log probabilities of a generated text."""

    logprobs: list[GeneratedToken]


@answer_type
class GenerateResponse(TypedDict):
    """The generated text."""

    model_name: str
    id: str
    text_output: str
    details: NotRequired[GenerateDetails]


@answer_type
class GenerateStreamResponse(GenerateResponse):
    """An event of a stream; the last has a `finish_reason` in its details, or an `error`."""

    error: NotRequired[str]


class GenerateRequest(RequestModel):
    """A body of `generate` or `generate_stream`."""

    id: str = Field(default_factory=lambda: str(uuid4()))
    text_input: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    def make_item(self, *, stream: bool) -> tuple[Any, dict[str, Any]]:
        """Return the text with the parameters of the generative tasks.

        By default the answer is the new text alone, and tokens are sampled if a sampling parameter is given. `stream`
        is accepted where it agrees with the route, because Triton's examples send it.

        Args:
            stream: true if the text is answered in deltas.

        Raises:
            InvalidRequest: names a parameter.
        """
        parameters = {"return_full_text": False, **self.parameters}
        given = parameters.pop("stream", stream)
        if not isinstance(given, bool):
            raise InvalidRequest("must be true or false", field="parameters.stream")
        if given and not stream:
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

    def locate(self, _: int) -> str:
        """Return the path of the instance in the request."""
        return "text_input"

    def render(self, model_name: str, answer: Sequence[Mapping[str, Any]]) -> GenerateResponse:
        """Return the whole answer."""
        (generated,) = answer
        response: GenerateResponse = {
            "model_name": model_name,
            "id": self.id,
            "text_output": generated["generated_text"],
        }
        if self._detailed:
            response["details"] = _render_details(generated)
        return response

    def render_events(self, model_name: str, chunks: Sequence[Chunk]) -> bytes:
        """Return server-sent events for chunks; the last one has the finish reason or the error."""
        deltas = [chunk.delta for chunk in chunks if chunk.delta is not None]
        return b"".join(encode_event(self._make_event(model_name, delta)) for delta in deltas)

    def _make_event(self, model_name: str, delta: Mapping[str, Any] | ServingError) -> GenerateStreamResponse:
        event: GenerateStreamResponse = {"model_name": model_name, "id": self.id, "text_output": ""}
        if isinstance(delta, ServingError):
            event["error"] = translate_error(delta).message
            return event
        event["text_output"] = delta["generated_text"]
        if self._detailed or "finish_reason" in delta:
            event["details"] = _render_details(delta)
        return event


def translate_error(error: ServingError) -> ServingError:
    """Return a runner's error with the protocol's names of parameters."""
    return error.with_parameter_names(lambda name: f"parameters.{'max_tokens' if name == 'max_new_tokens' else name}")


def _render_details(generated: Mapping[str, Any]) -> GenerateDetails:
    details: _EndDetails = {}
    if "finish_reason" in generated:
        details["finish_reason"] = _map_finish_reason(generated)
    for name in _COUNTS:
        if name in generated:
            details[name] = generated[name]
    return {**details, "logprobs": [_render_token(token) for token in generated.get("logprobs") or ()]}


def _map_finish_reason(generated: Mapping[str, Any]) -> _FinishReason:
    if generated["finish_reason"] == "stop":
        return "stop_sequence" if "stop_sequence" in generated else "eos_token"
    reason: _FinishReason = generated["finish_reason"]
    return reason


def _render_token(token: Mapping[str, Any]) -> GeneratedToken:
    logprob = clamp_logprob(token)
    return {"id": token["id"], "text": token["token"], "logprob": logprob, "special": token["special"]}
