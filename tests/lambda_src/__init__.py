"""TODO-DOC tests/lambda_src."""
