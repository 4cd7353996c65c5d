"""Use LangChain, as in https://docs.langchain.com/oss/python/integrations/chat/openai."""

from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field


class Sight(BaseModel):
    """A sight of a city."""

    name: Literal["Louvre", "Colosseum"]


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]
    capital: bool
    visits: int = Field(ge=0, le=9)
    sights: list[Sight] = Field(min_length=1, max_length=2)


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Get the weather of a city."""
    return f"It is sunny in {city}."


def chat(url: str, model: str, question: str) -> Any:
    llm = ChatOpenAI(base_url=url, api_key="none", model=model, temperature=0, max_tokens=24)
    return llm.invoke(question).model_dump()


def stream(url: str, model: str, question: str) -> Any:
    llm = ChatOpenAI(base_url=url, api_key="none", model=model, temperature=0, max_tokens=24)
    chunks = list(llm.stream(question))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return {"deltas": [chunk.text for chunk in chunks], "total": total.model_dump()}


def tools(url: str, model: str) -> Any:
    llm = ChatOpenAI(base_url=url, api_key="none", model=model, temperature=0, max_tokens=60)
    messages: list[BaseMessage] = [HumanMessage("Weather in Paris?")]
    forced = llm.bind_tools([get_weather], tool_choice="get_weather", parallel_tool_calls=False)
    first = forced.invoke(messages)
    messages.append(first)
    messages += [get_weather.invoke(call) for call in first.tool_calls]
    final = llm.bind_tools([get_weather], tool_choice="none").invoke(messages)
    return {
        "calls": first.tool_calls,
        "invalid": first.invalid_tool_calls,
        "finish_reason": first.response_metadata["finish_reason"],
        "results": [message.content for message in messages[2:]],
        "final": final.text,
    }


def streamed_tools(url: str, model: str) -> Any:
    llm = ChatOpenAI(base_url=url, api_key="none", model=model, temperature=0, max_tokens=60)
    messages: list[BaseMessage] = [HumanMessage("Weather in Paris?")]
    first: Any = None
    for chunk in llm.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False).stream(messages):
        first = chunk if first is None else first + chunk
    messages.append(AIMessage(content=first.content, tool_calls=first.tool_calls))
    messages += [get_weather.invoke(call) for call in first.tool_calls]
    final = llm.bind_tools([get_weather], tool_choice="none").invoke(messages)
    return {
        "calls": first.tool_calls,
        "invalid": first.invalid_tool_calls,
        "finish_reason": first.response_metadata["finish_reason"],
        "results": [message.content for message in messages[2:]],
        "final": final.text,
    }


def structured(url: str, model: str, method: str) -> Any:
    llm = ChatOpenAI(base_url=url, api_key="none", model=model, temperature=0, max_tokens=120)
    return llm.with_structured_output(City, method=method).invoke("Describe Paris.").model_dump()


def completion(url: str, model: str, prompt: str) -> Any:
    return OpenAI(base_url=url, api_key="none", model=model, temperature=0, max_tokens=12).invoke(prompt)


def embeddings(url: str, model: str, texts: list[str]) -> Any:
    # LangChain would otherwise send token ids of one of OpenAI's models.
    embeddings = OpenAIEmbeddings(base_url=url, api_key="none", model=model, check_embedding_ctx_length=False)
    return embeddings.embed_documents(texts)


def query_embedding(url: str, model: str, texts: list[str]) -> Any:
    embeddings = OpenAIEmbeddings(base_url=url, api_key="none", model=model, check_embedding_ctx_length=False)
    return [embeddings.embed_query(text) for text in texts]
