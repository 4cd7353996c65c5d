"""Use OpenAI's Python client, as in https://github.com/openai/openai-python."""

import json
from typing import Any, Literal

from openai import NotFoundError, OpenAI
from pydantic import BaseModel, Field


class Sight(BaseModel):
    name: Literal["Louvre", "Colosseum"]


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool
    visits: int = Field(ge=0, le=9)
    sights: list[Sight] = Field(min_length=1, max_length=2)


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
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
]


def chat(url: str, model: str, question: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0, max_completion_tokens=24
    )
    return answer.model_dump()


def stream(url: str, model: str, question: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    chunks = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_completion_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    return [chunk.model_dump() for chunk in chunks]


def stream_with_helper(url: str, model: str, question: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    with client.chat.completions.stream(
        model=model, messages=[{"role": "user", "content": question}], temperature=0, max_completion_tokens=24
    ) as events:
        deltas = [event.delta for event in events if event.type == "content.delta"]
        return {"deltas": deltas, "final": events.get_final_completion().model_dump()}


def tools(url: str, model: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    first = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
        temperature=0,
    )
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls:
        city = json.loads(call.function.arguments)["city"]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"It is sunny in {city}."})
    final = client.chat.completions.create(
        model=model, messages=messages, tools=TOOLS, tool_choice="none", temperature=0, max_completion_tokens=24
    )
    return {"first": first.model_dump(), "final": final.model_dump()}


def streamed_tools(url: str, model: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    with client.chat.completions.stream(
        model=model,
        messages=messages,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
    ) as events:
        first = events.get_final_completion()
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls:
        messages.append(
            {"role": "tool", "tool_call_id": call.id, "content": f"Sunny: {call.function.parsed_arguments}"}
        )
    final = client.chat.completions.create(
        model=model, messages=messages, tools=TOOLS, tool_choice="none", temperature=0, max_completion_tokens=24
    )
    return {"first": first.model_dump(), "final": final.model_dump()}


def structured(url: str, model: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "Describe Paris."}],
        response_format=City,
        temperature=0,
    )
    return answer.choices[0].message.parsed.model_dump()


def completion(url: str, model: str, prompt: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    return client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=12).model_dump()


def embeddings(url: str, model: str, texts: list[str]) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    answer = client.embeddings.create(model=model, input=texts)
    return [row.embedding for row in answer.data]


def models(url: str, model: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    return {
        "listed": [listed.id for listed in client.models.list()],
        "retrieved": client.models.retrieve(model).model_dump(),
    }


def unknown_model(url: str, model: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}])
    except NotFoundError as error:
        return {"code": error.code, "message": error.message}


def response(url: str, model: str, question: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    answer = client.responses.create(model=model, input=question, temperature=0, max_output_tokens=24, store=False)
    return {**answer.model_dump(), "output_text": answer.output_text}


def streamed_response(url: str, model: str, question: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    events = client.responses.create(
        model=model, input=question, temperature=0, max_output_tokens=24, store=False, stream=True
    )
    return [event.model_dump() for event in events]


def response_tools(url: str, model: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    tools: list[Any] = [{"type": "function", **TOOLS[0]["function"]}]
    conversation: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    first = client.responses.create(
        model=model,
        input=conversation,
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        store=False,
    )
    conversation += first.output
    for item in first.output:
        if item.type == "function_call":
            city = json.loads(item.arguments)["city"]
            conversation.append(
                {"type": "function_call_output", "call_id": item.call_id, "output": f"It is sunny in {city}."}
            )
    final = client.responses.create(
        model=model,
        input=conversation,
        tools=tools,
        tool_choice="none",
        temperature=0,
        max_output_tokens=24,
        store=False,
    )
    return {"first": first.model_dump(), "final": final.output_text}


def response_structured(url: str, model: str) -> Any:
    client = OpenAI(base_url=url, api_key="none")
    answer = client.responses.parse(model=model, input="Describe Paris.", text_format=City, temperature=0, store=False)
    return answer.output_parsed.model_dump()
