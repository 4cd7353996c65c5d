"""Use LiteLLM, as in https://docs.litellm.ai/docs/providers/openai_compatible and …/providers/vllm."""

import json
from typing import Any, Literal

import litellm
from pydantic import BaseModel, Field


class Sight(BaseModel):
    name: Literal["Louvre", "Colosseum"]


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool
    visits: int = Field(ge=0, le=9)
    sights: list[Sight] = Field(min_length=1, max_length=2)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
            },
        },
    }
]


def chat(url: str, provider: str, model: str, question: str) -> Any:
    answer = litellm.completion(
        model=f"{provider}/{model}",
        api_base=url,
        api_key="none",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=24,
    )
    return answer.model_dump()


def stream(url: str, provider: str, model: str, question: str) -> Any:
    messages = [{"role": "user", "content": question}]
    chunks = list(
        litellm.completion(
            model=f"{provider}/{model}",
            api_base=url,
            api_key="none",
            messages=messages,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    built = litellm.stream_chunk_builder(chunks, messages=messages)
    return {
        "deltas": [chunk.choices[0].delta.content for chunk in chunks if chunk.choices],
        "built": built.model_dump(),
    }


def tools(url: str, provider: str, model: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    shared: dict[str, Any] = {
        "model": f"{provider}/{model}",
        "api_base": url,
        "api_key": "none",
        "temperature": 0,
        "tools": TOOLS,
    }
    first = litellm.completion(**shared, messages=messages, tool_choice="required", parallel_tool_calls=False)
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls:
        city = json.loads(call.function.arguments)["city"]
        messages.append(
            {
                "tool_call_id": call.id,
                "role": "tool",
                "name": call.function.name,
                "content": f"It is sunny in {city}.",
            }
        )
    final = litellm.completion(**shared, messages=messages, tool_choice="none", max_tokens=24)
    return {"first": first.model_dump(), "final": final.model_dump()}


def streamed_tools(url: str, provider: str, model: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    shared: dict[str, Any] = {
        "model": f"{provider}/{model}",
        "api_base": url,
        "api_key": "none",
        "temperature": 0,
        "tools": TOOLS,
    }
    chunks = list(
        litellm.completion(**shared, messages=messages, tool_choice="required", parallel_tool_calls=False, stream=True)
    )
    first = litellm.stream_chunk_builder(chunks, messages=messages)
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls:
        messages.append({"tool_call_id": call.id, "role": "tool", "name": call.function.name, "content": "Sunny."})
    final = litellm.completion(**shared, messages=messages, tool_choice="none", max_tokens=24)
    return {"first": first.model_dump(), "final": final.model_dump()}


def structured(url: str, provider: str, model: str) -> Any:
    answer = litellm.completion(
        model=f"{provider}/{model}",
        api_base=url,
        api_key="none",
        messages=[{"role": "user", "content": "Describe Paris."}],
        response_format=City,
        temperature=0,
    )
    return City.model_validate_json(answer.choices[0].message.content).model_dump()


def embeddings(url: str, provider: str, model: str, texts: list[str]) -> Any:
    answer = litellm.embedding(model=f"{provider}/{model}", api_base=url, api_key="none", input=texts)
    return [row["embedding"] for row in answer.data]


def unknown_model(url: str, provider: str, model: str) -> Any:
    try:
        litellm.completion(
            model=f"{provider}/{model}",
            api_base=url,
            api_key="none",
            messages=[{"role": "user", "content": "Hello"}],
        )
    except litellm.NotFoundError as error:
        return error.message
