"""Headers in which other gateways and proxies write who a caller is: the default of `strip_headers`."""

IDENTITY = (
    *("x-user-*", "x-org-*", "x-consumer-*", "x-auth-*", "x-authenticated-*", "remote-user", "x-remote-user"),
    *("x-webauth-*", "x-authentik-*", "x-amzn-oidc-*", "x-goog-authenticated-*", "x-ms-client-principal*"),
    *("cf-access-*", "tailscale-user-*", "x-userinfo", "x-client-cert*", "ssl-client-*"),
)
"""A final * is a wildcard."""
