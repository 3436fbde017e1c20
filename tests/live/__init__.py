"""Tests against a Docker Engine, AWS's Runtime Interface Emulator, a registry and an emulated AWS."""
