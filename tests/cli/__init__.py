"""Tests of the command line: usage, golden texts and Ctrl-C."""
