"""Tools that tests and benchmarks share: the stand-in base image, the emulator, networks."""
