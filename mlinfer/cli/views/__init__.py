"""TODO-DOC mlinfer/cli/views."""
