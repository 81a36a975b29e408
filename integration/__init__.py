"""Integration tests: every one of them talks to real daemons, started by `integration.rig`."""
