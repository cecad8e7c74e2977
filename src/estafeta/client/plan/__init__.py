"""Prediction of a run before it is started: time, memory, traffic and dollars.

It must not start anything on AWS.
"""
