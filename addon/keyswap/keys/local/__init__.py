"""Keys in the state directory: keys.db, which the gateway reads, and commands and the admin listener write.

database   the file, its schema; `rows`: a key in it    watch         is it still the same file; who is blocked
source     what the gateway reads                       last_used     when keys were last used
writer     every change to keys                         deny_list     blocked keys, of every key source
reader     what commands read before a change           permissions   the permissions that a team has named
disk_reserve  room that is kept for ending keys
"""
