"""Fields that completions and chats share: sampling, streaming and the number of answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypedDict

from hf_runtime.api.openai.schema import OpenAIRequest
from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.contract.generation import StructuredOutputs
from hf_runtime.contract.validation import TolerantModel
from hf_runtime.settings import Task

#: Runners accept seeds below this number.
_SEEDS = 2**63

#: vLLM's older fields for parts of `structured_outputs`.
_GUIDED: Mapping[str, str] = {
    "guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"
}  # fmt: skip

#: Fields that are sent to the runner as they are, if the client sends them.
_UNCHANGED = frozenset(
    {
        "include_stop_str_in_output", "length_penalty", "min_p", "skip_special_tokens", "stop_token_ids",
        "truncate_prompt_tokens", "use_beam_search",
    }
)  # fmt: skip

FinishReason = Literal["stop", "length", "tool_calls"]


class GeneratedAnswer(TypedDict):
    """Fields of every answer and of every event of a stream."""

    id: str
    created: int
    model: str
    system_fingerprint: None


class StreamOptions(TolerantModel):
    """Options of a stream; `include_obfuscation` is accepted and changes nothing."""

    include_usage: bool = False
    include_obfuscation: bool = False
    #: vLLM's extension.
    continuous_usage_stats: bool = False


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Stop = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
_TokenId = Annotated[str, Field(pattern=r"^\d+$")]
_Bias = Annotated[float, Field(ge=-100, le=100)]


def _set_strictness(response_format: dict[str, Any]) -> dict[str, Any]:
    """Return a response format with OpenAI's default: a schema is not strict."""
    schema = response_format.get("json_schema")
    if isinstance(schema, dict):
        return {**response_format, "json_schema": {**schema, "strict": _get_strictness(schema)}}
    if response_format.get("schema") is not None:
        return {**response_format, "strict": _get_strictness(response_format)}
    return response_format


def _get_strictness(given: Mapping[str, Any]) -> Any:
    strict = given.get("strict")
    return False if strict is None else strict


class SamplingRequest(OpenAIRequest):
    """Fields that completions and chats share.

    Source: https://platform.openai.com/docs/api-reference/chat/create; `top_k` (0 or -1: off), `repetition_penalty`,
    `min_tokens`, `ignore_eos` and the fields from `prompt_logprobs` on are vLLM's extensions, `truncation` is KServe
    V1's parameter here.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("text-generation",)

    n: int = Field(1, ge=1, le=128)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-_SEEDS, lt=_SEEDS)
    stop: _Stop = Field(default_factory=list)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[_TokenId, _Bias] = Field(default_factory=dict)
    stream: bool = False
    stream_options: StreamOptions | None = None

    top_k: int = Field(0, ge=-1)
    repetition_penalty: float | None = None
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool = False
    truncation: bool | None = None
    prompt_logprobs: int | None = Field(None, ge=0, le=20)
    min_p: float = Field(0.0, ge=0, le=1)
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list, max_length=256)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    best_of: int | None = None
    length_penalty: float | None = Field(None, ge=-100, le=100)
    use_beam_search: bool = False
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(None, min_length=1)
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    guided_decoding_backend: str | None = None
    response_format: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> SamplingRequest:
        if self.stream_options not in (None, StreamOptions()) and not self.stream:
            raise InvalidRequest("only allowed when stream is true", field="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest("only allowed when stream is false", field="prompt_logprobs")
        if self.best_of not in (None, self.n):
            raise InvalidRequest("every answer is returned, so it can only equal n", field="best_of")
        self._check_structured_outputs()
        return self

    def _check_structured_outputs(self) -> None:
        given = [name for name in ("structured_outputs", *_GUIDED) if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidRequest(f"not together with {given[0]}", field=given[1])
        if given and self.response_format not in (None, {"type": "text"}):
            raise InvalidRequest("not together with response_format", field=given[0])
        if self.guided_whitespace_pattern is not None and self.guided_json is None:
            raise InvalidRequest("only allowed with guided_json", field="guided_whitespace_pattern")

    @property
    def includes_usage(self) -> bool:
        """True if a stream ends with its token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def includes_continuous_usage(self) -> bool:
        """True if every event of a stream has the token counts so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def field_names(self) -> Mapping[str, str]:
        return {"do_sample": "temperature", "min_new_tokens": "min_tokens", "return_full_text": "echo"}

    def make_parameters(self) -> dict[str, Any]:
        """Return the runner's parameters of each choice, without the seed."""
        parameters: dict[str, Any] = {"details": True, **self._make_sampling_parameters()}
        if self.presence_penalty:
            parameters["presence_penalty"] = self.presence_penalty
        if self.frequency_penalty:
            parameters["frequency_penalty"] = self.frequency_penalty
        if self.repetition_penalty is not None:
            parameters["repetition_penalty"] = self.repetition_penalty
        if self.logit_bias:
            parameters["logit_bias"] = self.logit_bias
        if self.stop:
            parameters["stop"] = self.stop
        if self.min_tokens is not None:
            parameters["min_new_tokens"] = self.min_tokens
        if self.ignore_eos:
            parameters["ignore_eos"] = True
        if self.truncation is not None:
            parameters["truncation"] = self.truncation
        if self.includes_continuous_usage:
            parameters["continuous_usage"] = True
        if self.prompt_logprobs is not None:
            parameters["prompt_logprobs"] = self.prompt_logprobs
        for name in _UNCHANGED & self.model_fields_set:
            parameters[name] = getattr(self, name)
        if (outputs := self._make_structured_outputs()) is not None:
            parameters["structured_outputs"] = outputs
        if self.response_format is not None and self.response_format != {"type": "text"}:
            parameters["response_format"] = _set_strictness(self.response_format)
        return parameters

    def _make_structured_outputs(self) -> dict[str, Any] | None:
        if self.structured_outputs is not None:
            return self.structured_outputs.model_dump(by_alias=True, exclude_none=True)
        for field, name in _GUIDED.items():
            if (value := getattr(self, field)) is not None:
                spaces = {"whitespace_pattern": self.guided_whitespace_pattern}
                return {name: value, **(spaces if self.guided_whitespace_pattern is not None else {})}
        return None

    def translate_error(self, error: ServingError) -> ServingError:
        translated = super().translate_error(error)
        # The runner knows vLLM's newer names only.
        for field, name in _GUIDED.items():
            if getattr(self, field) is not None and translated.field is not None:
                prefix, _, rest = translated.field.partition(f"structured_outputs.{name}")
                if not prefix and (rest or translated.field != "structured_outputs"):
                    return translated.with_field(field + rest)
                if translated.field == "structured_outputs":
                    return translated.with_field(field)
        return translated

    def _make_sampling_parameters(self) -> dict[str, Any]:
        # top_p 0 leaves one token, as temperature 0 does.
        if not self.temperature or not self.top_p:
            return {"do_sample": False}
        # All are sent, because the operator's defaults are not OpenAI's.
        top_k = max(self.top_k, 0)
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": top_k}

    def vary_seed(self, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the parameters of each choice of a prompt.

        Each choice has its own seed; the first one has the client's.
        """
        for number in range(self.n):
            if self.seed is None or not parameters["do_sample"]:
                yield parameters
            else:
                yield {**parameters, "seed": (self.seed + number) % _SEEDS}
