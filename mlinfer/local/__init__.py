"""The container image run on this machine under Lambda's limits, or the same handler without Docker."""
