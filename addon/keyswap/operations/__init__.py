"""WHAT is called: so far, whether the path as sent has exactly one reading."""
