"""The specification of mlinfer, as tests."""
