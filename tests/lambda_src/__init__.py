"""Tests of the handler package."""
