"""keyswap: callers present API keys, backends read JWTs."""

__version__ = "0.1.0"
