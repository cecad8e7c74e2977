"""A finished or running run as one HTML page.

It must not fetch: it draws what a `Run` says.
"""
