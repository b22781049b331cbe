"""The gate in service: a real server, its page in a real browser, and malformed requests."""
