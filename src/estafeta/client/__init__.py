"""The user's machine: start, follow, fetch, report and plan runs, here and on AWS by the same calls.

It must not know how anything is shown on a terminal, and it never touches the store itself: it asks `control`.
"""
