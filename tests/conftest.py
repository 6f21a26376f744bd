"""What all tests have in common: a property that takes long on a busy machine is no less true."""

from hypothesis import settings

settings.register_profile("keyswap", deadline=None)
settings.load_profile("keyswap")
