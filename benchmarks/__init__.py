"""Benchmarks of mlinfer: each module is a program."""
