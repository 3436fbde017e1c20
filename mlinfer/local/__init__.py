"""Run the function on this machine: as a container with Lambda's limits, or in this process without Docker."""
