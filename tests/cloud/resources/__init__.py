"""TODO-DOC tests/cloud/resources."""
