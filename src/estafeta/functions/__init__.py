"""The Lambda functions: `worker`, `merge` and `control`, and what each of them answers.

They must not know who called them, nor whether AWS or this machine runs them.
"""
