"""The image on this machine: built, and run under Lambda's limits."""
