"""Tests of the handler's S3 client."""
