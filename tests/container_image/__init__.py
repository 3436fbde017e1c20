"""TODO-DOC tests/container_image."""
