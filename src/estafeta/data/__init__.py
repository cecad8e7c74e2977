"""Stored data sets: bring rows in, describe them, deal them to ranks.

It must not know runs, models or torch.
"""
