"""Tests against the real parts: the Docker Engine, AWS's Runtime Interface Emulator, a registry, an emulated AWS."""
