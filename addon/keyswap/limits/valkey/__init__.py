"""The store `valkey://`: counters in a Valkey or Redis server, shared by the gateways of many machines.

store       what the limit step asks                          plan     the command to pour.lua, and its answer
connection  one line that all requests of a loop share        link     it, made again when lost
listing     the server's buckets, as they are listed
"""
