"""The HTTP interfaces of the local service: Lambda's Invoke and Runtime APIs, and CloudWatch Logs.

They must not know how an invocation is carried out.
"""
