"""HTTP with limits: connections, requests, retries, and what may be sent where."""
