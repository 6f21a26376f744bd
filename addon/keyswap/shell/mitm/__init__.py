"""Every reliance on mitmproxy's private side; tests/shell/mitm breaks when one of them changes.

internals      the master, connections, sockets and flows    lean              a master without what is not needed
http_layers    HTTP, and HTTP/1                              http2             HTTP/2
http2_streams  bodies of HTTP/2, stream by stream            upstream_pool     connections to backends
hop_by_hop     what is for one hop alone                     connection_watch  what layers ask of who watches
held_bytes     what is held of a caller's requests           imports           addons that are never run
upstream_errors  why a backend gave no answer
"""
