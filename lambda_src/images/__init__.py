"""Convert the bytes of an untrusted image to the model's input tensor."""
