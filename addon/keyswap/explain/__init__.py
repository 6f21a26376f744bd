"""WHY, in words.

trace       a described request, step by step    recorded  a decision that was recorded, explained later
trace_json  a decision and its steps as JSON     remedies  what to change, and where
"""
