"""WHAT IS BELIEVED of a request, and what is forwarded: pure values, for any data path.

header_policy  what is stripped before a request is judged   header_names  how hops read the names of fields
trace_context  the trace that a request belongs to           credentials   where a credential may sit; one alone
cors           cross-origin requests of browsers             hosts         names of hosts, and those that are served
addresses      the one reading of callers' addresses         wellformed    whether a head has one reading
path_law       whether a target has exactly one reading      forwarding    the heads that go on, in both directions
forward_auth   the request that a proxy asks about, and what it is told
engine_question the same of an engine that the gateway has configured itself
"""
