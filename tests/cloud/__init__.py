"""What happens in AWS: the commands, each against an AWS on loopback."""
