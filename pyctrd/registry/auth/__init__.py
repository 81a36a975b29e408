"""Who we are at a registry: keychains, challenges and tokens."""
