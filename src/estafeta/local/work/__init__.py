"""How the local service carries out invocations: queues, environments, processes.

It must not know HTTP, nor what the functions do.
"""
