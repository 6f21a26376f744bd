"""Keys at WorkOS: its validations, and what it said for as long as that counts."""
