"""The parts of a client for one service of containerd each, from `client.content` to `client.events`."""
