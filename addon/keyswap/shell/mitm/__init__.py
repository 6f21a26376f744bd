"""Every reliance on mitmproxy's private side; tests/shell/mitm breaks when one of them changes.

patch_table      what is changed, and by what         patching            how a method is changed
http1            HTTP/1 towards callers               http1_parser        its heads and chunks, strictly
http2            HTTP/2 towards callers               http2_costs         what its frames cost
http2_bodies    its bodies, stream by stream         goaway              its end
http_streams     requests, whatever carries them      websocket           WebSockets
upstream_http1   HTTP/1 towards backends              upstream_pool       connections to backends, kept
awaited_response what comes once its caller left      upstream_errors       why a backend gave no answer
connection_watch what layers ask of the guard         inspection          what the guard looks at
deferred         events from outside                  interjections       answers from outside
turns            much that was read at once           held_bytes          what is held of a caller's requests
proxy_master     the master and its listener          connection_handler  the tasks of a connection
sockets          sockets and buffers                  teardown            freeing what is over
flows            what is remembered of flows          wire_logs           logs without what was sent
lean             a master without what is not needed  fast_paths          the same for each request
imports          addons that are never run
"""
