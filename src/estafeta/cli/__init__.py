"""The command line: `estafeta`, or `python -m estafeta`.

It must not know how a run works: it asks `client` and `deploy`, and shows what they answer.
"""
