"""Known fields of OpenAI's, vLLM's and related APIs that this server does not serve.

Sources: https://platform.openai.com/docs/api-reference/chat/create and the protocol classes of vLLM's OpenAI server,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Fields that are accepted and change nothing in an answer: user ids, storage, scheduling, hints for OpenAI's models.
IGNORED = frozenset(
    {
        "cache_salt",
        "guided_decoding_backend",
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "request_id",
        "return_mm_kwargs",
        "return_token_offsets",
        "routed_experts_prompt_start",
        "safety_identifier",
        "service_tier",
        "session_id",
        "store",
        "stream_interval",
        "user",
        "verbosity",
    }
)


@dataclass(frozen=True, slots=True)
class Unserved:
    """A known field that is refused, because the answer without it would be another.

    Attributes:
        reason: what to do, or why it is not served.
        neutral: values with which the answer is the same as without the field; null is one for every field.
    """

    reason: str
    neutral: tuple[Any, ...] = ()


_ONLY_TEXT = "this server reads and writes text only"
_NO_VLLM = "this server has no such option of vLLM"

#: Refused fields by name. A kind of request that has a field of that name serves it.
NOT_OFFERED: Mapping[str, Unserved] = {
    # OpenAI's.
    "audio": Unserved("answers are text only", ({},)),
    "function_call": Unserved("use tool_choice", ("none",)),
    "functions": Unserved("use tools", ([],)),
    "moderation": Unserved("nothing is moderated here"),
    "prediction": Unserved("predicted outputs are not offered", ({},)),
    "suffix": Unserved("insertion is not offered", ("",)),
    "web_search_options": Unserved("there is no web search"),
    # vLLM's, of sampling.
    "allowed_token_ids": Unserved("use logit_bias", ([],)),
    "bad_words": Unserved("use logit_bias", ([],)),
    "logits_processors": Unserved("clients cannot bring code", ([],)),
    "logprob_token_ids": Unserved("use top_logprobs", ([],)),
    "repetition_detection": Unserved("use repetition_penalty", ({},)),
    "spaces_between_special_tokens": Unserved(_NO_VLLM, (True,)),
    "thinking_token_budget": Unserved(_NO_VLLM),
    "use_beam_search": Unserved("a model searches with beams if its checkpoint says so", (False,)),
    "watermarking": Unserved(_NO_VLLM, (False,)),
    # vLLM's, of prompts.
    "add_special_tokens": Unserved("the tokenizer and the chat template decide"),
    "chat_template": Unserved("the model's own is used", ("",)),
    "documents": Unserved("put them into a message", ([],)),
    "echo": Unserved("a chat is not repeated in its answer", (False,)),
    "media_io_kwargs": Unserved(_ONLY_TEXT, ({},)),
    "mm_processor_kwargs": Unserved(_ONLY_TEXT, ({},)),
    "prompt_embeds": Unserved("send the prompt as text or token ids", ([], "")),
    "truncation_side": Unserved("the end of a prompt is kept, and the beginning of a text to embed"),
    # vLLM's, of answers.
    "ec_transfer_params": Unserved(_NO_VLLM, ({},)),
    "kv_transfer_params": Unserved(_NO_VLLM, ({},)),
    "return_prompt_text": Unserved(_NO_VLLM, (False,)),
    "return_token_ids": Unserved(_NO_VLLM, (False,)),
    "return_tokens_as_token_ids": Unserved(_NO_VLLM, (False,)),
    "vllm_xargs": Unserved(_NO_VLLM, ({},)),
    # vLLM's, of embeddings.
    "embed_dtype": Unserved("vectors are float32", ("float32",)),
    "endianness": Unserved("vectors are little-endian", ("native", "little")),
    "normalize": Unserved("the model decides, and most normalize"),
    "use_activation": Unserved("the model decides, and most normalize"),
    # SGLang's and llama.cpp's.
    "ebnf": Unserved("use response_format", ("",)),
    "grammar": Unserved("use response_format", ("",)),
    "lora_path": Unserved("an adapter is a model of its own here", ("",)),
    "regex": Unserved("use response_format", ("",)),
}
