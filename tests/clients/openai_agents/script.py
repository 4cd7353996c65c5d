"""Use OpenAI's Agents SDK, as in https://openai.github.io/openai-agents-python/models/."""

import asyncio
from typing import Any, Literal

from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel, Field


class Sight(BaseModel):
    name: Literal["Louvre", "Colosseum"]


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool
    visits: int = Field(ge=0, le=9)
    sights: list[Sight] = Field(min_length=1, max_length=2)


@function_tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Get the weather of a city."""
    return f"It is sunny in {city}."


# Traces would be sent to OpenAI.
UNTRACED = RunConfig(tracing_disabled=True)


def _connect(url: str, model: str, api: str) -> Model:
    client = AsyncOpenAI(base_url=url, api_key="none")
    kinds: dict[str, Any] = {"chat_completions": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}
    made: Model = kinds[api](model=model, openai_client=client)
    return made


def chat(url: str, model: str, api: str, question: str) -> Any:
    agent = Agent(
        name="Assistant",
        model=_connect(url, model, api),
        model_settings=ModelSettings(temperature=0, max_tokens=24, store=False),
    )
    answer = Runner.run_sync(agent, question, run_config=UNTRACED)
    usage = answer.context_wrapper.usage
    return {"text": answer.final_output, "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}


def stream(url: str, model: str, api: str, question: str) -> Any:
    agent = Agent(
        name="Assistant",
        model=_connect(url, model, api),
        model_settings=ModelSettings(temperature=0, max_tokens=24, store=False),
    )

    async def run() -> Any:
        answer = Runner.run_streamed(agent, question, run_config=UNTRACED)
        deltas = [
            event.data.delta
            async for event in answer.stream_events()
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
        ]
        return {"deltas": deltas, "text": answer.final_output}

    return asyncio.run(run())


def tools(url: str, model: str, api: str) -> Any:
    # The SDK forces a call in the first turn only.
    agent = Agent(
        name="Assistant",
        model=_connect(url, model, api),
        tools=[get_weather],
        model_settings=ModelSettings(
            temperature=0, max_tokens=60, tool_choice="required", parallel_tool_calls=False, store=False
        ),
        tool_use_behavior="run_llm_again",
    )
    answer = Runner.run_sync(agent, "Weather in Paris?", run_config=UNTRACED, max_turns=2)
    return {"items": [item.to_input_item() for item in answer.new_items], "text": answer.final_output}


def streamed_tools(url: str, model: str, api: str) -> Any:
    agent = Agent(
        name="Assistant",
        model=_connect(url, model, api),
        tools=[get_weather],
        model_settings=ModelSettings(
            temperature=0, max_tokens=60, tool_choice="required", parallel_tool_calls=False, store=False
        ),
    )

    async def run() -> Any:
        answer = Runner.run_streamed(agent, "Weather in Paris?", run_config=UNTRACED, max_turns=2)
        async for _ in answer.stream_events():
            pass
        return {"items": [item.to_input_item() for item in answer.new_items], "text": answer.final_output}

    return asyncio.run(run())


def structured(url: str, model: str, api: str) -> Any:
    agent = Agent(
        name="Assistant",
        model=_connect(url, model, api),
        output_type=City,
        model_settings=ModelSettings(temperature=0, max_tokens=160, store=False),
    )
    return Runner.run_sync(agent, "Describe Paris.", run_config=UNTRACED).final_output.model_dump()
