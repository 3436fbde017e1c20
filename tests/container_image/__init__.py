"""Tests of the image's pinned dependencies and of the push to a registry."""
