"""A picture's bytes, from a stranger -> the tensor that the model wants."""
