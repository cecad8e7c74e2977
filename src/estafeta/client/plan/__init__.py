"""What a run will take, before it is started: time, memory, traffic and dollars.

It must not start anything on AWS.
"""
