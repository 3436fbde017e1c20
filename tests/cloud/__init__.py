"""Tests of deploy, rollback, status, logs and destroy against an AWS on loopback."""
