"""TODO-DOC mlinfer/container_image."""
