"""Use LlamaIndex, as in https://developers.llamaindex.ai/python/framework/integrations/llm/openai_like."""

from typing import Any, Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
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


def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Get the weather of a city."""
    return f"It is sunny in {city}."


def _connect(url: str, model: str, **options: Any) -> OpenAILike:
    return OpenAILike(
        api_base=url,
        api_key="none",
        model=model,
        context_window=2048,
        is_chat_model=True,
        is_function_calling_model=True,
        temperature=0,
        **options,
    )


def chat(url: str, model: str, question: str) -> Any:
    llm = _connect(url, model, max_tokens=24)
    answer = llm.chat([ChatMessage(role="user", content=question)])
    return {"role": answer.message.role.value, "text": answer.message.content}


def stream(url: str, model: str, question: str) -> Any:
    llm = _connect(url, model, max_tokens=24)
    chunks = list(llm.stream_chat([ChatMessage(role="user", content=question)]))
    return {"deltas": [chunk.delta for chunk in chunks], "text": chunks[-1].message.content}


def tools(url: str, model: str) -> Any:
    llm = _connect(url, model, max_tokens=60)
    tool = FunctionTool.from_defaults(get_weather)
    history = [ChatMessage(role="user", content="Weather in Paris?")]
    first = llm.chat_with_tools([tool], chat_history=history, tool_required=True)
    calls = llm.get_tool_calls_from_response(first)
    history.append(first.message)
    for call in calls:
        output = tool.call(**call.tool_kwargs)
        history.append(ChatMessage(role="tool", content=str(output), additional_kwargs={"tool_call_id": call.tool_id}))
    final = llm.chat_with_tools([tool], chat_history=history, tool_choice="none")
    return {
        "calls": [call.model_dump() for call in calls],
        "results": [message.content for message in history[2:]],
        "final": final.message.content,
    }


def streamed_tools(url: str, model: str) -> Any:
    llm = _connect(url, model, max_tokens=60)
    tool = FunctionTool.from_defaults(get_weather)
    history = [ChatMessage(role="user", content="Weather in Paris?")]
    *_, first = llm.stream_chat_with_tools([tool], chat_history=history, tool_required=True)
    calls = llm.get_tool_calls_from_response(first)
    history.append(first.message)
    for call in calls:
        output = tool.call(**call.tool_kwargs)
        history.append(ChatMessage(role="tool", content=str(output), additional_kwargs={"tool_call_id": call.tool_id}))
    final = llm.chat_with_tools([tool], chat_history=history, tool_choice="none")
    return {
        "calls": [call.model_dump() for call in calls],
        "results": [message.content for message in history[2:]],
        "final": final.message.content,
    }


def structured(url: str, model: str) -> Any:
    llm = _connect(url, model, max_tokens=120)
    return llm.structured_predict(City, PromptTemplate("Describe {city}."), city="Paris").model_dump()


def structured_by_schema(url: str, model: str) -> Any:
    llm = _connect(url, model, max_tokens=120, should_use_structured_outputs=True)
    return llm.structured_predict(City, PromptTemplate("Describe {city}."), city="Paris").model_dump()


def completion(url: str, model: str, prompt: str) -> Any:
    llm = OpenAILike(
        api_base=url,
        api_key="none",
        model=model,
        context_window=2048,
        is_chat_model=False,
        temperature=0,
        max_tokens=12,
    )
    return llm.complete(prompt).text


def embeddings(url: str, model: str, texts: list[str]) -> Any:
    embedding = OpenAILikeEmbedding(api_base=url, api_key="none", model_name=model)
    return embedding.get_text_embedding_batch(texts)
