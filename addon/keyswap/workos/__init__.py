"""WorkOS: its API, and what its events say. Nothing here decides whether a request is admitted."""
