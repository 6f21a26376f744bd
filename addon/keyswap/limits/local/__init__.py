"""The store `local`: counters in the state directory, shared by every gateway process of the machine.

store   what the limit step asks                    table      numbers by name, in a file that all processes map
slot    one ask's number: read, written, its level  in_flight  which requests have begun and not ended
lock    one process at a time                       boot       one run of the machine, from its boot to its end
listing what they hold, for people to look at
"""
