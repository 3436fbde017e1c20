"""TODO-DOC lambda_src/images."""
