"""TODO-DOC tests/doctor."""
