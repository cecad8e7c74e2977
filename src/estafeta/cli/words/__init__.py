"""What the command line says about runs, data sets, errors and stacks, as lines of text.

They must not fetch anything: they word what they are given.
"""
