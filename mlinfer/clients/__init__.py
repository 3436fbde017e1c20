"""TODO-DOC mlinfer/clients."""
