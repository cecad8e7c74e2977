"""Putting a stack on AWS, and taking it away again: packages, the library, CloudFormation, what is left over."""
