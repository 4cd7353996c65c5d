"""Use Instructor, as in https://python.useinstructor.com/integrations/openai."""

from typing import Any, Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class Sight(BaseModel):
    name: Literal["Louvre", "Colosseum"]


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool
    visits: int = Field(ge=0, le=9)
    sights: list[Sight] = Field(min_length=1, max_length=2)


def _connect(url: str, mode: str) -> Any:
    return instructor.from_openai(OpenAI(base_url=url, api_key="none"), mode=instructor.Mode[mode])


def chat(url: str, model: str, question: str) -> Any:
    client = _connect(url, "TOOLS")
    return client.chat.completions.create(
        model=model,
        response_model=None,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=24,
    ).model_dump()


def stream(url: str, model: str, question: str) -> Any:
    client = _connect(url, "TOOLS")
    chunks = client.chat.completions.create(
        model=model,
        response_model=None,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=24,
        stream=True,
    )
    return [chunk.model_dump() for chunk in chunks]


def structured(url: str, model: str, mode: str) -> Any:
    city, completion = _connect(url, mode).chat.completions.create_with_completion(
        model=model,
        response_model=City,
        messages=[{"role": "user", "content": "Describe Paris."}],
        temperature=0,
        max_tokens=160,
        max_retries=1,
    )
    return {"city": city.model_dump(), "completion": completion.model_dump()}


def partial(url: str, model: str, mode: str) -> Any:
    cities = _connect(url, mode).chat.completions.create_partial(
        model=model,
        response_model=City,
        messages=[{"role": "user", "content": "Describe Paris."}],
        temperature=0,
        max_tokens=160,
        max_retries=1,
    )
    return [city.model_dump() for city in cities]
