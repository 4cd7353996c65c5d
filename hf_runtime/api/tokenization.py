"""`tokenize` and `detokenize`, as vLLM has them.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#tokenizer-api
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from typing_extensions import TypedDict

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.json_body import json_response, read_object
from hf_runtime.api.http.protocol_routes import make_post_routes
from hf_runtime.api.inference import Models, mark_error_retrieved, wait_in_time
from hf_runtime.api.openai.schema import OpenAIRequest, parse_document, parse_request
from hf_runtime.api.openai.unserved import Unserved
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.chat import Message, Tool
from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.contract.tokenization import (
    Detokenize,
    TokenizeChat,
    TokenizerAnswer,
    TokenizerRequest,
    TokenizeText,
)
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings


@answer_type
class TokenizeResponse(TypedDict):
    """Tokens of a text or of a chat's prompt, and the most tokens that the model reads."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


@answer_type
class DetokenizeResponse(TypedDict):
    """Text of tokens."""

    prompt: str


class _TokenizerCall(OpenAIRequest):
    """A request for a model's tokenizer; a server of one model needs no name."""

    ignored: ClassVar[frozenset[str]] = frozenset({"priority", "request_id"})
    not_offered: ClassVar[Mapping[str, Unserved]] = {
        "chat_template": Unserved("the model's own is used"),
        "media_io_kwargs": Unserved("prompts are text only"),
        "mm_processor_kwargs": Unserved("prompts are text only"),
    }

    model: str = ""

    @property
    def item_count(self) -> tuple[str, int]:
        return "model", 1

    @property
    def field_names(self) -> Mapping[str, str]:
        return {}

    def make_request(self) -> TokenizerRequest:
        """Return the request for the runner."""
        raise NotImplementedError


class TokenizePromptRequest(_TokenizerCall):
    """A text to tokenize."""

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False

    def make_request(self) -> TokenizerRequest:
        return TokenizeText(self.prompt, self.add_special_tokens, self.return_token_strs)


class TokenizeChatRequest(_TokenizerCall):
    """A chat whose prompt to tokenize."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = Field(default_factory=list)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: Literal[False] = False
    return_token_strs: bool = False

    def make_request(self) -> TokenizerRequest:
        chat: dict[str, Any] = {"messages": [message.turn() for message in self.messages]}
        if self.tools:
            chat["tools"] = [tool.model_dump(exclude_unset=True) for tool in self.tools]
        for name in ("add_generation_prompt", "continue_final_message", "chat_template_kwargs"):
            if (value := getattr(self, name)) is not None:
                chat[name] = value
        return TokenizeChat(chat, self.return_token_strs)


class DetokenizeRequest(_TokenizerCall):
    """Tokens to turn into text."""

    tokens: list[int]

    @model_validator(mode="after")
    def _check_tokens(self) -> DetokenizeRequest:
        for index, token in enumerate(self.tokens):
            if not 0 <= token < 1 << 32:
                raise InvalidRequest("must be a token of the model, a whole number", field=f"tokens[{index}]")
        return self

    def make_request(self) -> TokenizerRequest:
        return Detokenize(self.tokens)


#: Kinds of requests to `tokenize` by the field that only they have; the first that is there counts.
_KINDS: Mapping[str, type[_TokenizerCall]] = {"messages": TokenizeChatRequest, "prompt": TokenizePromptRequest}


def choose_kind(document: Mapping[str, Any]) -> type[_TokenizerCall]:
    """Return the kind of a request to `tokenize`.

    Raises:
        InvalidRequest: the body has none of the fields that are read.
    """
    for name, kind in _KINDS.items():
        if document.get(name) is not None:
            return kind
    given = ", ".join(sorted(document))[:200] or "nothing"
    raise InvalidRequest(f"prompt (a text) or messages (a chat) is needed, this has {given}")


async def use_tokenizer(call: CallContext, client: ModelClient, request: TokenizerRequest) -> TokenizerAnswer:
    """Return the answer of a model's tokenizer.

    Raises:
        ServingError: the request is wrong, or the model cannot answer.
        ClientLeft: the client left before the answer.
    """
    answer = client.use_tokenizer(request)
    try:
        await wait_in_time(call, answer, f"no answer within {call.timeout:g} s (REQUEST_TIMEOUT)")
        return answer.result()
    finally:
        if not answer.cancel():
            mark_error_retrieved(answer)


def make_routes(models: Models, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes."""

    def find_client(call: CallContext, name: str) -> ModelClient:
        if name:
            return models.get_ready_client(name, call)
        if len(models.names) != 1:
            raise InvalidRequest(f"field required, one of {', '.join(models.names)}", field="model")
        return models.get_ready_client(models.names[0], call)

    async def answer(request: Request, parsed: _TokenizerCall) -> TokenizerAnswer:
        call = make_call_context(request, settings)
        client = find_client(call, parsed.model)
        try:
            return await use_tokenizer(call, client, parsed.make_request())
        except ServingError as error:
            raise parsed.translate_error(error) from None

    async def tokenize(request: Request) -> Response:
        document = read_object(await read_body(request, settings))
        found = await answer(request, parse_document(choose_kind(document), document, settings))
        response: TokenizeResponse = {
            "count": len(found["tokens"]),
            "max_model_len": found["max_length"],
            "tokens": found["tokens"],
            "token_strs": found["token_strs"],
        }
        return json_response(response)

    async def detokenize(request: Request) -> Response:
        parsed = parse_request(DetokenizeRequest, await read_body(request, settings), settings)
        found = await answer(request, parsed)
        return json_response(DetokenizeResponse(prompt=found["text"] or ""))

    return [
        *make_post_routes(["/tokenize"], tokenize),
        *make_post_routes(["/detokenize"], detokenize),
    ]
