"""TODO-DOC mlinfer/cli/commands."""
