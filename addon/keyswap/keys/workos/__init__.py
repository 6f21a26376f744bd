"""Keys at WorkOS: its validations, and what it said for as long as that counts.

source   the key source `workos`                   cache       what was said, for as long as it counts
api_key  WorkOS' shape of a key, read strictly     validation  a question that is under way
"""
