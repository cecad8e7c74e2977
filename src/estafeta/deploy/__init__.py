"""Deployment of a stack on AWS, and its removal: packages, the library, CloudFormation, leftovers.

It must not know how a run works.
"""
