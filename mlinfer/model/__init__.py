"""Create, verify, quantize and read model files."""
