"""Predictions from each target: this process, the emulator, Lambda's Invoke API and the function's URL."""
