"""Routes of `messages`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hf_runtime.api.anthropic.messages import COUNT_TOKENS_PATHS, MESSAGES_PATHS, CountTokensRequest, MessagesRequest
from hf_runtime.api.anthropic.output import MessageEvents, MessageTokens
from hf_runtime.api.http.body import read_body
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.http.protocol_routes import make_post_routes
from hf_runtime.api.inference import Models
from hf_runtime.api.openai.calls import ModelCalls
from hf_runtime.api.openai.schema import parse_request
from hf_runtime.api.tokenization import use_tokenizer
from hf_runtime.contract.errors import ServingError
from hf_runtime.contract.tokenization import TokenizeChat
from hf_runtime.settings import ServerSettings


def make_routes(models: Models, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes."""
    calls = ModelCalls(models, settings)

    async def messages(request: Request) -> Response:
        parsed = parse_request(MessagesRequest, await read_body(request, settings), settings)
        if parsed.stream:
            return await calls.stream(request, parsed, lambda: MessageEvents(parsed))
        return await calls.answer(request, parsed, lambda answers: MessageEvents(parsed).render_whole(answers[0][0]))

    async def count_tokens(request: Request) -> Response:
        parsed = parse_request(CountTokensRequest, await read_body(request, settings), settings)
        call = make_call_context(request, settings)
        client = calls.find_client(call, parsed)
        try:
            found = await use_tokenizer(call, client, TokenizeChat(parsed.make_chat()))
        except ServingError as error:
            raise parsed.translate_error(error) from None
        return json_response(MessageTokens(input_tokens=len(found["tokens"])))

    return [
        *make_post_routes(MESSAGES_PATHS, messages),
        *make_post_routes(COUNT_TOKENS_PATHS, count_tokens),
    ]
