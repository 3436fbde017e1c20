"""TODO-DOC tests/cli."""
