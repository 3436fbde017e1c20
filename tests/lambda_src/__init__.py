"""The handler package: each kind of event, hostile pictures, and where the model comes from."""
