"""TODO-DOC devtools."""
