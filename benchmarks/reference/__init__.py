"""The design that this project started from, to compare with; never shipped."""
