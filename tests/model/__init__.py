"""Tests of the model file: export, import, quantization, formats and memory."""
