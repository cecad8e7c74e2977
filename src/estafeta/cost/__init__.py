"""What is counted while a run goes on, and what that costs on AWS.

It must not know how a run works.
"""
