"""Form of a model's answers to chats: marks of reasoning, content and tool calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.chat import Chat
from runners.tasks.answers import harmony
from runners.tasks.answers.lark import Lark, find_added_tokens
from runners.tasks.answers.parts import AnswerReader
from runners.tasks.answers.thinking import FORMATS, THINK, Thinking, ThinkingFormat, ThinkingReader
from runners.tasks.answers.turn_end import find_turn_ends
from runners.tasks.chat_prompt import supports_tools
from runners.tasks.notations import find_notation
from runners.tasks.tool_calls import ToolSyntax, choose_functions, combine, read_templates, write_answer

logger = logging.getLogger(__name__)

#: The last tokens of a prompt, among which are the marks that open or close the reasoning.
_PROMPT_TAIL = 32


class AnswerFormat:
    """Form of the answers of one model, found from its chat template, or set by the operator.

    Args:
        name: name of the model, for the log.
        reasoning_parser, tool_parser: names of parsers; None leaves the choice to the template.
        vocabulary: number of tokens that the model generates.

    Attributes:
        end_ids: tokens that end an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "model",
        reasoning_parser: str | None = None,
        tool_parser: str | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._reasoning_parser = reasoning_parser
        templates = read_templates(tokenizer)
        channels = harmony.is_harmony(templates)
        self._calls_in_channels = tool_parser == harmony.TOOL_PARSER or (tool_parser is None and channels)
        self._reasons_in_channels = reasoning_parser == harmony.REASONING_PARSER or (
            reasoning_parser is None and channels
        )
        known = None if self._calls_in_channels else tool_parser
        self._tools = ToolSyntax(tokenizer, known)
        self._thinking = None if self._reasons_in_channels else self._find_thinking(templates)
        self.end_ids = frozenset(
            token for token in find_turn_ends(tokenizer, templates) if vocabulary is None or token < vocabulary
        )
        if known is None and not self._calls_in_channels and find_notation(templates) is None:
            self._warn_of_unknown_notation(name, templates)

    def _find_thinking(self, templates: str) -> ThinkingFormat | None:
        if self._reasoning_parser is not None:
            return next((each for each in FORMATS if self._reasoning_parser in each.parsers), None)
        tokens = {str(entry) for entry in self._tokenizer.added_tokens_decoder.values()}
        named = (each for each in FORMATS if each.is_in(templates))
        return next(named, None) or next((each for each in FORMATS if tokens >= {*each.opening, *each.closing}), None)

    def _warn_of_unknown_notation(self, name: str, templates: str) -> None:
        if "tools" in templates and supports_tools(self._tokenizer, self._tokenizer.get_chat_template()):
            logger.warning(
                "%s: its chat template names tools in a notation that is not known here, so tool calls are read as "
                "<tool_call>{\"name\": …, \"arguments\": …}</tool_call>; set TOOL_PARSER if the model writes them "
                "otherwise.",
                name,
            )  # fmt: skip

    @property
    def syntax(self) -> ToolSyntax:
        """Notation of the tool calls that are not messages of a channel."""
        return self._tools

    def plan(self, chat: Chat, input_ids: list[int]) -> AnswerPlan | None:
        """Return the form of the answer to a chat; None if the answer is content only.

        Args:
            input_ids: the prompt.
        """
        functions = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in chat.usable_tools}
        thinking = Thinking.OFF
        if self._thinking is not None:
            thinking = self._find_state(self._thinking, chat, input_ids)
        in_channels = self._reasons_in_channels or (self._calls_in_channels and bool(functions))
        if not functions and not in_channels and thinking is Thinking.OFF:
            return None
        return AnswerPlan(self, chat, functions, thinking, in_channels)

    def _find_state(self, form: ThinkingFormat, chat: Chat, input_ids: list[int]) -> Thinking:
        """Return the state of the reasoning at the end of a prompt."""
        if chat.continues_answer:
            return form.find_state_within(chat.messages[-1].text or "")
        state = form.find_state(str(self._tokenizer.decode(input_ids[-_PROMPT_TAIL:])))
        if state is Thinking.POSSIBLE and self._reasoning_parser in form.always_thinks:
            return Thinking.OPEN
        return state

    @cached_property
    def reasoning_marks(self) -> frozenset[int]:
        """Tokens of the marks of reasoning, whose text the reader needs."""
        marks: tuple[str, ...] = harmony.MARKS if self._reasons_in_channels else ()
        if self._thinking is not None:
            marks = (*self._thinking.opening, *self._thinking.closing)
        return self._find_tokens(marks)

    @cached_property
    def tool_marks(self) -> frozenset[int]:
        """Tokens of the marks of tool calls, whose text the reader needs."""
        return self._find_tokens(harmony.MARKS if self._calls_in_channels else self._tools.notation.visible)

    def _find_tokens(self, marks: tuple[str, ...]) -> frozenset[int]:
        added = self._tokenizer.added_tokens_decoder.items()
        return frozenset(token for token, entry in added if entry.special and str(entry) in marks)

    @cached_property
    def added_tokens(self) -> dict[str, int]:
        """Added tokens that are no text in a grammar."""
        return find_added_tokens(self._tokenizer)

    @property
    def thinking(self) -> ThinkingFormat:
        """Marks of the reasoning."""
        return self._thinking or THINK

    @property
    def separates_reasoning(self) -> bool:
        """False if reasoning stays in the content."""
        return self._reasoning_parser != "none"


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """Form of the answer to one chat.

    Attributes:
        functions: schemas of the arguments of the functions that it may call, by name.
        thinking: state of the reasoning at its beginning.
        in_channels: its text consists of messages in channels.
    """

    format: AnswerFormat
    chat: Chat
    functions: Mapping[str, Mapping[str, Any]]
    thinking: Thinking
    in_channels: bool

    @property
    def visible_ids(self) -> frozenset[int]:
        """Special tokens whose text the reader needs."""
        marks = self.format.reasoning_marks if self.thinking is not Thinking.OFF or self.in_channels else frozenset()
        return marks | self.format.tool_marks if self.functions else marks

    @property
    def has_grammar(self) -> bool:
        """True if the answer may call tools, so that its calls must be valid."""
        return bool(self.functions)

    @property
    def _tools(self) -> list[dict[str, Any]]:
        return [tool.model_dump(exclude_unset=True) for tool in self.chat.tools]

    def create_reader(self) -> AnswerReader:
        """Create the parser of one answer."""
        if self.in_channels:
            return harmony.HarmonyReader(
                self.functions,
                in_content=self.chat.continues_answer,
                separates=self.format.separates_reasoning,
            )
        calls = self.format.syntax.reader(self.functions) if self.functions else None
        if self.thinking is Thinking.OFF and calls is not None:
            return calls
        return ThinkingReader(self.format.thinking, is_open=self.thinking is Thinking.OPEN, content=calls)

    def write_grammar(self, content: str | None = None) -> str:
        """Return the grammar of the answer, from that of its content.

        Args:
            content: grammar of the content; None for free text.

        Raises:
            InvalidRequest: the parameters of a function cannot be enforced.
        """
        chat = self.chat
        if self.functions and chat.choice != "auto":
            content = None  # the answer is a call
        if self.in_channels:
            return self._write_channels(content)
        thinking = None if self.thinking is Thinking.OFF else (self.format.thinking, self.thinking)
        grammar = self.format.syntax.grammar(
            self._tools,
            chat.choice,
            chat.parallel_tool_calls,
            allowed=chat.callable_names,
            thinking=thinking,
            content=content,
        )
        assert grammar is not None, "this is a bug: an answer without calls and reasoning has no grammar of its own"
        return grammar

    def _write_channels(self, content: str | None) -> str:
        chat = self.chat
        lark = Lark(self.format.added_tokens, frozenset(self.format.added_tokens))
        functions = choose_functions(self._tools, chat.choice, chat.callable_names) if self.functions else []
        required = chat.choice not in ("none", "auto")
        answer = harmony.write_grammar(
            lark,
            functions,
            required=required,
            content=None if content is None else "@content",
            in_content=chat.continues_answer,
        )
        grammar = write_answer(lark, answer, None, None, free=True)
        return grammar if content is None else combine(grammar, content)
