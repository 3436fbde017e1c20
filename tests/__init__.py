"""The tests of mlinfer."""
