"""Authentication at registries: keychain, challenges and tokens."""
