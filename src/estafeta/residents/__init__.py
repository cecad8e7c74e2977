"""The parameter server inside the workers: ranks that stay for many rounds and exchange vectors by files.

It must not import torch, nor know how a gradient is computed.
"""
