"""Names of reasoning and tool parsers, as vLLM has them.

Source: https://docs.vllm.ai/en/latest/features/reasoning_outputs.html and features/tool_calling.html
"""

from __future__ import annotations

from typing import Literal

#: Parser of a model's reasoning; `none` switches it off.
ReasoningParser = Literal[
    "none",
    "deepseek_r1",
    "deepseek_v3",
    "ernie45",
    "glm45",
    "granite",
    "holo2",
    "kimi_k2",
    "minimax_m2",
    "mistral",
    "nemotron_v3",
    "olmo3",
    "openai_gptoss",
    "qwen3",
    "seed_oss",
    "step3",
]

#: Parser of a model's tool calls.
ToolParser = Literal[
    "deepseek_v3",
    "deepseek_v31",
    "functionary",
    "glm45",
    "glm47",
    "granite",
    "hermes",
    "kimi_k2",
    "llama3_json",
    "llama4_json",
    "llama4_pythonic",
    "mistral",
    "openai",
    "pythonic",
    "qwen3_coder",
    "qwen3_xml",
]
