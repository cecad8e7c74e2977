"""Counters of what a run uses, and what that costs on AWS.

It must not know how a run works.
"""
