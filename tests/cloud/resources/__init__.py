"""Tests of single AWS resources: the function, the stored model, the role."""
