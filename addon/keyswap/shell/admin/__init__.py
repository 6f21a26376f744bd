"""The admin listener: metrics, status and the key management, for whoever operates the gateway.

listener  where it listens, and what opens it     http       the server: tornado's, with bounds
app       who may ask what, on tornado.web        routes     what a route is, and those for monitoring
keys_api  keys and permissions, as WorkOS serves  responses  the shapes of answers
errors    what a caller gets wrong                executor   work on the state directory, beside the event loop
request_bodies  bodies and parameters of lists, field by field
"""
