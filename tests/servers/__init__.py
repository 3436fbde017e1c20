"""TODO-DOC tests/servers."""
