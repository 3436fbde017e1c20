"""What an image is made of, and its way to a registry on loopback."""
