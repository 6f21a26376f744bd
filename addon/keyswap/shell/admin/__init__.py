"""The admin listener: metrics, status and the key management, for whoever operates the gateway.

listener  where it listens, and what opens it     http       its HTTP, on tornado's server
routes    what can be asked, and by whom          keys_api   keys and permissions, as WorkOS serves them
requests  what is asked, read                     responses  the shapes of answers
executor  work on the state directory, beside the event loop
"""
