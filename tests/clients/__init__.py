"""Tests of credentials, proxies and error messages of the AWS and Docker clients."""
