"""Lambda, S3 and the deployed stack: boto3 lives here.

It must not know what the functions compute.
"""
