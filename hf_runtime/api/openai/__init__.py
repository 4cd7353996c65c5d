"""OpenAI's API: requests become items, and their answers become choices.

Source: https://platform.openai.com/docs/api-reference/introduction
"""
