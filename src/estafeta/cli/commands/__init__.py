"""The commands of `estafeta`, a file each: they read options, call the client, and print.

They must not know files, functions or AWS.
"""
