"""What doctor finds here and in AWS, and the remedy it names."""
