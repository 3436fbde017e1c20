"""Clients for AWS and the Docker Engine; they turn failures into errors with a hint."""
