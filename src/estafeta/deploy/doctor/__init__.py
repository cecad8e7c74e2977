"""`estafeta doctor`: checks of everything that training needs, on this machine or on AWS.

It must not know how the command line shows the findings.
"""
