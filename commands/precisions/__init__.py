"""Comparison of a model's precisions on this machine: speed, memory and answers.

python -m commands.precisions
"""
