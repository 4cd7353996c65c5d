"""Use Hugging Face's InferenceClient, as in https://huggingface.co/docs/huggingface_hub/guides/inference."""

import json
from dataclasses import asdict
from typing import Any

from huggingface_hub import InferenceClient

TOOLS: list[Any] = [
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

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["Paris", "Rome"]},
        "capital": {"type": "boolean"},
        "visits": {"type": "integer", "minimum": 0, "maximum": 9},
        "sights": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "enum": ["Louvre", "Colosseum"]}},
                "required": ["name"],
                "additionalProperties": False,
            },
            "minItems": 1,
            "maxItems": 2,
        },
    },
    "required": ["name", "capital", "visits", "sights"],
    "additionalProperties": False,
}


def chat(url: str, model: str, question: str) -> Any:
    client = InferenceClient(base_url=url, api_key="none")
    answer = client.chat_completion([{"role": "user", "content": question}], model=model, temperature=0, max_tokens=24)
    return asdict(answer)


def stream(url: str, model: str, question: str) -> Any:
    client = InferenceClient(base_url=url, api_key="none")
    chunks = client.chat_completion(
        [{"role": "user", "content": question}],
        model=model,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    return [asdict(chunk) for chunk in chunks]


def tools(url: str, model: str) -> Any:
    client = InferenceClient(base_url=url, api_key="none")
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    first = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=TOOLS,
        tool_choice="required",
        temperature=0,
        extra_body={"parallel_tool_calls": False},
    )
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls:
        city = json.loads(call.function.arguments)["city"]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"It is sunny in {city}."})
    final = client.chat.completions.create(
        model=model, messages=messages, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=24
    )
    return {"first": asdict(first), "final": asdict(final)}


def structured(url: str, model: str) -> Any:
    client = InferenceClient(base_url=url, api_key="none")
    answer = client.chat_completion(
        [{"role": "user", "content": "Describe Paris."}],
        model=model,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}},
        temperature=0,
        max_tokens=160,
    )
    return json.loads(answer.choices[0].message.content)
