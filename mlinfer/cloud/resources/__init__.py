"""TODO-DOC mlinfer/cloud/resources."""
