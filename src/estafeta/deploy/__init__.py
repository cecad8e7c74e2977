"""Putting a stack on AWS, and taking it away again: packages, the library, CloudFormation, what is left over.

It must not know what a run is, nor how anything is shown on a terminal.
"""
