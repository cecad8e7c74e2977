"""The shared folder: publish once, wait, sweep. This package alone knows what NFS does.

It must not know what the files mean.
"""
