"""From an image classifier on a laptop to a serverless endpoint on AWS Lambda, with the same answer at every step."""

__version__ = "0.1.0"
