"""Anthropic's API: a request becomes a chat, and its answer becomes content blocks.

Source: https://docs.anthropic.com/en/api/messages
"""
