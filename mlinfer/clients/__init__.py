"""The modules that talk to AWS and to the Docker Engine, and that turn what these answer into errors with their remedy."""
