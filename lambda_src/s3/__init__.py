"""A small S3 client on the standard library: signed GET and PUT.

It replaces boto3 and obstore in the handler. It adds no package to the container image, sends each key byte for byte, and
imports `ssl` only for HTTPS.
"""
