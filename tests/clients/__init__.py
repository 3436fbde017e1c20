"""How AWS's and the Docker Engine's errors, credentials and proxies reach the user, at servers on loopback."""
