"""Counts of a run's work, and their cost on AWS.

It must not know how a run works.
"""
