"""The AWS resources of a project, one module each, with functions to read, plan and apply."""
