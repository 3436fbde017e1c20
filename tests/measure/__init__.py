"""Tests of bench and tune."""
