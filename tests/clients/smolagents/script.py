"""Use smolagents, as in https://huggingface.co/docs/smolagents/reference/models#smolagents.OpenAIModel."""

import json
from typing import Any, Literal

from smolagents import OpenAIModel, ToolCallingAgent, tool
from smolagents.models import agglomerate_stream_deltas


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Get the weather of a city.

    Args:
        city: The city's name.
    """
    return f"It is sunny in {city}."


def _connect(url: str, model: str, **options: Any) -> OpenAIModel:
    return OpenAIModel(model_id=model, api_base=url, api_key="none", temperature=0, **options)


def _ask(question: str) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": question}]}]


def chat(url: str, model: str, question: str) -> Any:
    answer = _connect(url, model, max_tokens=24).generate(_ask(question))
    return {
        "role": answer.role,
        "text": answer.content,
        "input_tokens": answer.token_usage.input_tokens,
        "output_tokens": answer.token_usage.output_tokens,
    }


def stream(url: str, model: str, question: str) -> Any:
    deltas = list(_connect(url, model, max_tokens=24).generate_stream(_ask(question)))
    return {
        "deltas": [delta.content for delta in deltas],
        "text": agglomerate_stream_deltas(deltas).content,
        "output_tokens": deltas[-1].token_usage.output_tokens,
    }


def calls(url: str, model: str) -> Any:
    answer = _connect(url, model, max_tokens=80).generate(
        _ask("Weather in Paris?"), tools_to_call_from=[get_weather], parallel_tool_calls=False
    )
    return [
        {"id": call.id, "name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in answer.tool_calls
    ]


def tools(url: str, model: str, streamed: bool) -> Any:
    agent = ToolCallingAgent(
        tools=[get_weather],
        model=_connect(url, model, max_tokens=60),
        max_steps=2,
        stream_outputs=streamed,
        verbosity_level=0,
    )
    # A model this small does not know when to call `final_answer`. After the last step the agent asks for a text.
    agent.tools.pop("final_answer")
    result = agent.run("What is the weather in Paris?", return_full_result=True)
    return {"output": result.output, "steps": [step for step in result.steps if "step_number" in step]}


def structured(url: str, model: str) -> Any:
    schema = {
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
    answer = _connect(url, model, max_tokens=160).generate(
        _ask("Describe Paris."),
        response_format={"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}},
    )
    return json.loads(answer.content)
