"""Bytes and time: what connections may hold, for how long, and who goes when it is too much.

guard           every connection of the process            client          one caller's, and those to its backends
bounds          what connections may hold, and for how long  body_rate     how fast bodies must come
memory_budget   what is held of all requests together      turns           shares of a turn of the event loop
websocket_pace  how much is read of a WebSocket at once    client_hello    what comes before TLS stands
"""
