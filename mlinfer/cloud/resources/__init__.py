"""What a project has in AWS: one resource a module, each with what reads it, plans its change and applies that."""
