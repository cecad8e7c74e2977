"""A finished or running run as one HTML page.

It must not fetch: it draws the facts that a `Run` gives it.
"""
