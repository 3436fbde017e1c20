"""The model file: made of foreign and of torchvision's classifiers, quantised, read and checked."""
