"""WHAT is called: so far, whether the path as sent has exactly one reading, for the operation that it belongs to."""
