"""Measure the latency, memory use and cost of the function, and choose its memory size."""
