"""The command line: `estafeta`, or `python -m estafeta`."""
