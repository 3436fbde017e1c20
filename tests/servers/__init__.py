"""Servers on loopback for the tests: AWS, Docker Engine, registry, function, HTTP."""
