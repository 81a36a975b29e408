"""How the hosts of a registry are found: host configuration, proxies, and what explains them."""
