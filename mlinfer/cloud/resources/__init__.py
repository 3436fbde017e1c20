"""The AWS resources of a project, one module each: read, plan, apply."""
