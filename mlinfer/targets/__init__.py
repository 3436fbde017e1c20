"""TODO-DOC mlinfer/targets."""
