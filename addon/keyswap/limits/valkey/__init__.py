"""The store `valkey://`: counters in a Valkey or Redis server, shared by the gateways of many machines."""
