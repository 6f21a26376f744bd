"""WHY, in words.

trace_json  a decision and its steps as JSON     recorded  a decision that was recorded, explained later
remedies    what to change, and where
"""
