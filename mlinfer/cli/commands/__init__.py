"""The commands, a module each, named as it is typed: read the flags, make the clients, call one function, show its result."""
