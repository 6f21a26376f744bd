"""HOW IT IS CARRIED: everything that touches mitmproxy, sockets and the clock."""
