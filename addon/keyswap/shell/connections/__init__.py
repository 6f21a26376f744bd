"""Bytes and time: what connections may hold, for how long, and who goes when it is too much.

guard          every connection of the process          client         one caller's connection
upstream       one connection to a backend              exchange       a request that was admitted, to its end
listener       what connections ask of the handlers     shared         what all connections have in common
client_reading from a caller, and back-pressure         closing        a caller's connection
clock          what a caller takes too long for         held_requests  what is held of a caller's requests
layer_watch    what mitmproxy's layers ask              body_rate      how fast bodies must come
memory_budget  what is held of all requests together    turns          shares of a turn of the event loop
websocket_pace how much is read of a WebSocket at once  client_hello   what comes before TLS stands
"""
