"""The model file: made of a classifier, verified, quantised, read."""
