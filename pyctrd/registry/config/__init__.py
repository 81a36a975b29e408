"""The hosts of a registry: their configuration, proxies, and the explanation of both."""
