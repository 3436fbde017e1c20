"""TODO-DOC tests/targets."""
