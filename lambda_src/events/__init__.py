"""Parse each kind of event and build the answer that its sender expects."""
