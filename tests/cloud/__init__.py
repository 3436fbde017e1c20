"""TODO-DOC tests/cloud."""
