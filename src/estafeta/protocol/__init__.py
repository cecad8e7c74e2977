"""docs/protocol.md in code: the documents of a run, the names of its files, and what is to be done next.

It must not import torch or boto3, and must not call a function: it decides, others act.
"""
