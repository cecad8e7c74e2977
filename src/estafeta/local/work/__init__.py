"""The execution of invocations in the local service: queues, environments, processes.

It must not know HTTP, or what the functions do.
"""
