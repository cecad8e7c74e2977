"""Deployment of a stack on AWS, and its removal: packages, the library, CloudFormation, leftovers.

It must not know what a run is, nor how anything is shown on a terminal.
"""
