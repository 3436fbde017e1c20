"""TODO-DOC tests/measure."""
