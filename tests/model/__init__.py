"""TODO-DOC tests/model."""
