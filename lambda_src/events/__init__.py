"""The shape of each kind of event, and of the answer that its sender expects."""
