"""Parameters and answers of the generative tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.parameters import Parameters, Truncation
from hf_runtime.contract.validation import StrictModel, make_field_error

#: More tokens than any model generates. A typing error must not occupy a model that has no limit.
MAX_TOKENS = 1_000_000


def _make_list(value: Any) -> Any:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


_StopString = Annotated[str, Field(min_length=1, max_length=1000)]


class StructuredOutputs(StrictModel):
    """Constraint of an answer, in vLLM's format: one of the first five fields.

    A schema is enforced as far as possible. Objects have only the properties that it names, unless it says otherwise.

    Source: https://docs.vllm.ai/en/stable/features/structured_outputs/
    """

    json_schema: str | dict[str, Any] | None = Field(None, alias="json", description="JSON schema, or one as JSON.")
    regex: str | None = Field(None, description="Regular expression that the whole answer matches.")
    choice: list[str] | None = Field(None, min_length=1, max_length=10_000, description="Possible answers.")
    grammar: str | None = Field(None, description="Grammar in llguidance's lark, or in GBNF.")
    json_object: bool | None = Field(None, description="Any JSON object.")
    whitespace_pattern: str | None = Field(None, description="Regular expression of white space within JSON.")
    disable_any_whitespace: bool | None = Field(None, description="JSON without optional white space.")
    disable_additional_properties: bool | None = Field(
        None, description="Changes nothing: objects are closed unless the schema says otherwise."
    )
    disable_fallback: bool | None = Field(None, description="Changes nothing.")

    @model_validator(mode="before")
    @classmethod
    def _refuse_structural_tag(cls, given: Any) -> Any:
        # Named here, because unknown fields may be ignored, and this one would change the answer.
        if isinstance(given, dict) and given.get("structural_tag") is not None:
            raise make_field_error("structural_tag", "not supported, use tools or a grammar")
        return given

    @model_validator(mode="after")
    def _check_number(self) -> StructuredOutputs:
        values = (self.json_schema, self.regex, self.choice, self.grammar, self.json_object or None)
        if sum(value is not None for value in values) != 1:
            raise ValueError("must have one of json, regex, choice, grammar and json_object")
        return self


class GenerationParameters(Parameters):
    """Parameters of generation. Lengths are in tokens."""

    max_length: int | None = Field(
        None,
        ge=1,
        le=MAX_TOKENS,
        description=(
            "Maximum length of a sequence in tokens, including the prompt. `max_new_tokens` takes precedence. If both "
            "are unset, `MAX_LENGTH` applies."
        ),
    )
    max_new_tokens: int | None = Field(
        None,
        ge=0,
        le=MAX_TOKENS,
        description=(
            "Maximum number of new tokens. It may be 0 for an answer that contains the prompt or its log probabilities."
        ),
    )
    min_new_tokens: int | None = Field(
        None,
        ge=0,
        le=MAX_TOKENS,
        description="Minimum number of new tokens. If unset, the model's generation config decides.",
    )
    fill_context: bool = Field(
        False, description="Generate as many tokens as the model's context allows, unless `max_new_tokens` is set."
    )
    do_sample: bool = Field(False, description="Sample the next token. If false, decoding is greedy.")
    temperature: float = Field(1.0, ge=0, le=100, description="Sampling temperature. 0 is greedy decoding.")
    top_k: int = Field(50, ge=0, description="Sample only from the `k` most likely tokens. 0 turns this off.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample only from the most likely tokens whose probabilities add up to `p`."
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "Sample only from tokens whose probability is at least this share of the likeliest token's. It applies "
            "before `top_k` and `top_p`. 0 turns this off."
        ),
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed for sampling. The same seed and parameters give the same text. If unset, the seed is random.",
    )
    num_return_sequences: int = Field(1, ge=1, le=64, description="Number of sequences to generate for each prompt.")
    repetition_penalty: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description=(
            "Make tokens that occurred before less likely (above 1) or more likely (below 1). If unset, the model's "
            "generation config decides."
        ),
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Value to subtract from the logits of tokens that were generated before."
    )
    frequency_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        description="Value to subtract from the logit of a token for each time it was generated before.",
    )
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict,
        max_length=1024,
        description="Values from -100 to 100 to add to the logits of tokens, by token id.",
    )
    stop: Annotated[list[_StopString], BeforeValidator(_make_list)] = Field(
        default_factory=list, max_length=16, description="Strings that end an answer: one string or a list."
    )
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list, max_length=256, description="Tokens that end an answer."
    )
    include_stop_str_in_output: bool = Field(
        False, description="The text ends with the stop string or token that ended it, instead of before it."
    )
    skip_special_tokens: bool = Field(True, description="Leave special tokens out of the text.")
    length_penalty: float | None = Field(
        None,
        ge=-100,
        le=100,
        description=(
            "Exponent of the length by which beam search divides scores: above 0 it prefers long answers. Only for "
            "models that search with beams; elsewhere it must be 1. If unset, the model's generation config decides."
        ),
    )
    use_beam_search: bool = Field(
        False, description="Refuse the request if the model's generation config sets no beams."
    )
    ignore_eos: bool = Field(False, description="Continue after the end-of-sequence token.")
    response_format: dict[str, Any] | None = Field(
        None,
        description=(
            "Format of the answer: `json_object` or `json_schema`, as in OpenAI's API. Decoding is constrained to it. "
            "If unset, the answer is free text."
        ),
    )
    structured_outputs: StructuredOutputs | None = Field(
        None,
        description=(
            "Format of the answer in vLLM's words: an object with `json`, `regex`, `choice`, `grammar` or "
            "`json_object`. Not together with `response_format`."
        ),
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description=(
            "Number of alternatives to report for each token, with their log probabilities. Answers that are not "
            "streamed show them only with `details`."
        ),
    )
    prompt_logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description=(
            "Number of alternatives to report for each token of the prompt, with their log probabilities and the "
            "token's own. Answers that are not streamed show them only with `details`."
        ),
    )
    truncation: Truncation = False
    continuous_usage: bool = Field(
        False, description="Add the token counts so far to each object of a stream, and not only to the last one."
    )
    truncate_prompt_tokens: int | None = Field(
        None,
        ge=-1,
        description=(
            "Keep only this number of tokens at the end of the prompt. -1 keeps as many as the model's context allows, "
            "as `truncation` does."
        ),
    )
    details: bool = Field(
        False, description="Add the finish reason, token counts and log probabilities to each answer."
    )

    @model_validator(mode="after")
    def _check_max_new_tokens(self) -> GenerationParameters:
        if self.max_new_tokens == 0 and self.prompt_logprobs is None and not getattr(self, "return_full_text", None):
            reason = "must be at least 1, unless parameters.return_full_text or parameters.prompt_logprobs is set"
            raise make_field_error("max_new_tokens", reason)
        return self


@answer_type
class CalledTool(TypedDict):
    """Call of a tool. The arguments are JSON."""

    name: str
    arguments: str


@answer_type
class LikelyToken(TypedDict):
    """Token with its log probability.

    The log probability is null if it is minus infinity, which JSON cannot express.
    """

    token: str
    id: int
    logprob: float | None
    bytes: list[int] | None
    special: bool


@answer_type
class ScoredToken(LikelyToken):
    """Generated token, with the most likely tokens at its position."""

    top: list[LikelyToken]


@answer_type
class PromptToken(LikelyToken):
    """Token of a prompt, with its rank and the most likely tokens at its position.

    The first token has neither a log probability nor a rank.
    """

    rank: int | None
    top: list[LikelyToken]


class _Details(TypedDict):
    stop_sequence: NotRequired[str]
    prompt_tokens: NotRequired[int]
    cached_tokens: NotRequired[int]
    generated_tokens: NotRequired[int]
    logprobs: NotRequired[list[ScoredToken]]
    reasoning: NotRequired[str]
    prompt_logprobs: NotRequired[list[PromptToken]]
    tool_calls: NotRequired[list[CalledTool]]


@answer_type
class GeneratedText(_Details):
    """Generated text, or the whole chat if the full text is requested."""

    generated_text: str | list[dict[str, Any]]
    finish_reason: NotRequired[Literal["stop", "length"]]


@answer_type
class GeneratedDelta(_Details):
    """Object of a stream. The last object of a sequence has a `finish_reason`."""

    index: int
    sequence: NotRequired[int]
    generated_text: str
    finish_reason: NotRequired[Literal["stop", "length", "error", "cancelled"]]
    error: NotRequired[str]
