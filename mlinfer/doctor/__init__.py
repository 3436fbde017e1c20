"""TODO-DOC mlinfer/doctor."""
