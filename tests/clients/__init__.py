"""TODO-DOC tests/clients."""
