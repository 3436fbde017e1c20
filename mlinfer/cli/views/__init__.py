"""Functions that write results: shared by several commands, or longer than a few lines."""
