"""The settings of functions that the local service reads from a CloudFormation template.

It must not know how functions are run.
"""
