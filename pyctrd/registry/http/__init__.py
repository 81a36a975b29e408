"""HTTP with limits: connections, requests, retries, and the guard of addresses."""
