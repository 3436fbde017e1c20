"""Tests of image decoding, limits and pre-processing."""
