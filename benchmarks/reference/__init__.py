"""The reference design that this project started from, for comparison; never shipped."""
