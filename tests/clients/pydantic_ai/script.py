"""Use Pydantic AI, as in https://ai.pydantic.dev/models/openai/#openai-compatible-models."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, Embedder, NativeOutput, PromptedOutput, RunContext, ToolOutput
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings


class Sight(BaseModel):
    name: Literal["Louvre", "Colosseum"]


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool
    visits: int = Field(ge=0, le=9)
    sights: list[Sight] = Field(min_length=1, max_length=2)


class ToolFirst(AbstractCapability[None]):
    """Force a tool call in the first step, and a text in the next."""

    def get_model_settings(self) -> Callable[[RunContext[None]], ModelSettings]:
        return lambda context: ModelSettings(tool_choice="required" if context.run_step == 1 else "none")


def _connect(url: str, model: str) -> OpenAIChatModel:
    return OpenAIChatModel(model, provider=OpenAIProvider(base_url=url, api_key="none"))


def _add_weather(agent: Agent[None, Any]) -> list[str]:
    called: list[str] = []

    @agent.tool_plain
    def get_weather(city: Literal["Paris", "Rome"]) -> str:
        """Get the weather of a city."""
        called.append(city)
        return f"It is sunny in {city}."

    return called


def chat(url: str, model: str, question: str) -> Any:
    agent = Agent(_connect(url, model), model_settings=ModelSettings(temperature=0, max_tokens=24))
    answer = agent.run_sync(question)
    return {
        "text": answer.output,
        "finish_reason": answer.response.finish_reason,
        "input_tokens": answer.usage.input_tokens,
        "output_tokens": answer.usage.output_tokens,
    }


def stream(url: str, model: str, question: str) -> Any:
    agent = Agent(_connect(url, model), model_settings=ModelSettings(temperature=0, max_tokens=24))

    async def run() -> list[str]:
        async with agent.run_stream(question) as answer:
            return [delta async for delta in answer.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(run())


def tools(url: str, model: str) -> Any:
    settings = ModelSettings(temperature=0, max_tokens=60, parallel_tool_calls=False)
    agent = Agent(_connect(url, model), model_settings=settings, capabilities=[ToolFirst()])
    called = _add_weather(agent)
    answer = agent.run_sync("Weather in Paris?")
    parts = [part.part_kind for message in answer.all_messages() for part in message.parts]
    return {"called": called, "parts": parts, "text": answer.output}


def streamed_tools(url: str, model: str) -> Any:
    settings = ModelSettings(temperature=0, max_tokens=60, parallel_tool_calls=False)
    agent = Agent(_connect(url, model), model_settings=settings, capabilities=[ToolFirst()])
    called = _add_weather(agent)

    async def run() -> Any:
        async with agent.run_stream("Weather in Paris?") as answer:
            text = await answer.get_output()
            parts = [part.part_kind for message in answer.all_messages() for part in message.parts]
            return {"called": called, "parts": parts, "text": text}

    return asyncio.run(run())


def structured(url: str, model: str, output: str) -> Any:
    kinds: dict[str, Any] = {"native": NativeOutput, "tool": ToolOutput, "prompted": PromptedOutput}
    settings = ModelSettings(temperature=0, max_tokens=160)
    agent = Agent(_connect(url, model), output_type=kinds[output](City), model_settings=settings, retries=0)
    return agent.run_sync("Describe Paris.").output.model_dump()


def embeddings(url: str, model: str, texts: list[str]) -> Any:
    provider = OpenAIProvider(base_url=url, api_key="none")
    embedder = Embedder(OpenAIEmbeddingModel(model, provider=provider))
    return [list(vector) for vector in embedder.embed_documents_sync(texts).embeddings]


def response(url: str, model: str, question: str) -> Any:
    responses = OpenAIResponsesModel(model, provider=OpenAIProvider(base_url=url, api_key="none"))
    agent = Agent(responses, model_settings=ModelSettings(temperature=0, max_tokens=24))
    return {"text": agent.run_sync(question).output}


def response_tools(url: str, model: str) -> Any:
    responses = OpenAIResponsesModel(model, provider=OpenAIProvider(base_url=url, api_key="none"))
    settings = ModelSettings(temperature=0, max_tokens=60, parallel_tool_calls=False)
    agent = Agent(responses, model_settings=settings, capabilities=[ToolFirst()])
    called = _add_weather(agent)
    answer = agent.run_sync("Weather in Paris?")
    parts = [part.part_kind for message in answer.all_messages() for part in message.parts]
    return {"called": called, "parts": parts, "text": answer.output}
