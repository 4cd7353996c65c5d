"""Use Anthropic's Python client, as in https://github.com/anthropics/anthropic-sdk-python."""

from typing import Any, Literal

from anthropic import Anthropic, NotFoundError, beta_tool
from pydantic import BaseModel


class Sight(BaseModel):
    name: Literal["Louvre", "Colosseum"]


# The client sends no bounds of numbers and lists, so a small model would not end them.
class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool
    visits: Literal[0, 1, 2]
    sight: Sight


# The client has no argument for the temperature any more.
GREEDY: Any = {"extra_body": {"temperature": 0}}

TOOLS: list[Any] = [
    {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    }
]


def chat(url: str, model: str, question: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    answer = client.messages.create(
        model=model, max_tokens=24, messages=[{"role": "user", "content": question}], **GREEDY
    )
    return answer.model_dump()


def chat_with_system(url: str, model: str, question: str, system: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    answer = client.messages.create(
        model=model,
        max_tokens=24,
        system=[{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
        messages=[{"role": "user", "content": [{"type": "text", "text": question}]}],
        **GREEDY,
    )
    return answer.model_dump()


def stream(url: str, model: str, question: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    with client.messages.stream(
        model=model, max_tokens=24, messages=[{"role": "user", "content": question}], **GREEDY
    ) as events:
        deltas = list(events.text_stream)
        return {"deltas": deltas, "final": events.get_final_message().model_dump()}


def events(url: str, model: str, question: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    stream = client.messages.create(
        model=model, max_tokens=24, messages=[{"role": "user", "content": question}], **GREEDY, stream=True
    )
    return [event.model_dump() for event in stream]


def tools(url: str, model: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    first = client.messages.create(
        model=model,
        max_tokens=60,
        messages=messages,
        tools=TOOLS,
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        **GREEDY,
    )
    messages.append({"role": "assistant", "content": first.content})
    messages.append(
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": block.id, "content": f"It is sunny in {block.input['city']}."}
                for block in first.content
                if block.type == "tool_use"
            ],
        }
    )
    final = client.messages.create(
        model=model, max_tokens=24, messages=messages, tools=TOOLS, tool_choice={"type": "none"}, **GREEDY
    )
    return {"first": first.model_dump(), "final": final.model_dump()}


def streamed_tools(url: str, model: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    with client.messages.stream(
        model=model,
        max_tokens=60,
        messages=messages,
        tools=TOOLS,
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        **GREEDY,
    ) as stream:
        first = stream.get_final_message()
    messages.append({"role": "assistant", "content": first.content})
    messages.append(
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": block.id,
                    "content": [{"type": "text", "text": f"It is sunny in {block.input['city']}."}],
                }
                for block in first.content
                if block.type == "tool_use"
            ],
        }
    )
    final = client.messages.create(
        model=model, max_tokens=24, messages=messages, tools=TOOLS, tool_choice={"type": "none"}, **GREEDY
    )
    return {"first": first.model_dump(), "final": final.model_dump()}


@beta_tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Get the weather of a city.

    Args:
        city: The city's name.
    """
    return f"It is sunny in {city}."


def tool_runner(url: str, model: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    runner = client.beta.messages.tool_runner(
        model=model,
        max_tokens=60,
        tools=[get_weather],
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        # A model this small would not call the tool by itself, nor stop calling it.
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_iterations=2,
        **GREEDY,
    )
    return [message.model_dump() for message in runner]


def structured(url: str, model: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    answer = client.messages.parse(
        model=model,
        max_tokens=160,
        messages=[{"role": "user", "content": "Describe Paris."}],
        output_format=City,
        **GREEDY,
    )
    return answer.parsed_output.model_dump()


def count_tokens(url: str, model: str, question: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    counted = client.messages.count_tokens(model=model, messages=[{"role": "user", "content": question}])
    return counted.input_tokens


def unknown_model(url: str, model: str) -> Any:
    client = Anthropic(base_url=url, api_key="none")
    try:
        client.messages.create(model=model, max_tokens=1, messages=[{"role": "user", "content": "Hello"}])
    except NotFoundError as error:
        return error.body
