"""Parts of an answer to a chat: reasoning, content and tool calls."""
