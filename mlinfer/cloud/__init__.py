"""Deploy a project to AWS Lambda, show its state, roll it back and delete it."""
