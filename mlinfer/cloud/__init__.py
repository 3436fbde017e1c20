"""The function in AWS: its model, image, role, versions, alias and log."""
