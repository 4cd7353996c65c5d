"""OpenAI's API, in translation: a request becomes items, each with its parameters, and their answers its choices.

Source: https://platform.openai.com/docs/api-reference/introduction
"""
