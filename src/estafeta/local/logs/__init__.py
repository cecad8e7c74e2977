"""The logs of the local service, as CloudWatch would keep them.

They must not know how functions are run.
"""
