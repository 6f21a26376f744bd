"""The admin listener: metrics, status and the key management, for whoever operates the gateway.

listener  where it listens, and what opens it     http       the server: tornado's, with bounds
app       who may ask what, on tornado.web        routes     what a route is, and those for monitoring
keys_api  keys and permissions, as WorkOS serves  requests   bodies and parameters of lists, read
errors    what a caller gets wrong                responses  the shapes of answers
executor  work on the state directory, beside the event loop
"""
