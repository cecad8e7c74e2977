"""A rank's share of a batch, computed: torch lives here.

It must not know who combines the gradients, nor how many ranks wait for them.
"""
