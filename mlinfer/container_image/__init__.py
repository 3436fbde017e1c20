"""The container image that Lambda runs: what it is made of, its build, and its way to the registry."""
