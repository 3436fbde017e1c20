"""Build the container image that Lambda runs and push it to ECR."""
