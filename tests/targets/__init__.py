"""Tests of predictions from each target: this process, the emulator, Lambda's Invoke API, the function URL."""
