"""Measuring: the figures, their cost, the choice of a memory size, and the deployed function that is borrowed for it."""
