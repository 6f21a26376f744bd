"""HOW IT IS CARRIED: everything that touches mitmproxy, sockets and the clock.

One way down; no module stands here by itself.

    serve            the processes of `keyswap serve`
    proxy, authz     one request over mitmproxy; the questions of another proxy
    connections, engine  bytes and time of connections; Envoy in front
    control          the control socket
    runtime          what is in force
    admin, metrics   the admin listener; what is counted
    decisions, mitm  the decision log; every reliance on mitmproxy's private side
"""
