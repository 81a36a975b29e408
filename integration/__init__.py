"""Integration tests on real daemons, which `integration.rig` starts."""
