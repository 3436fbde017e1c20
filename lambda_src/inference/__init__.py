"""TODO-DOC lambda_src/inference."""
