"""WHO, by API key: from the value that a caller presents to the principal it stands for.

Law: a key's value exists in memory for the length of one call, and at rest only as HMAC-SHA-256 under the pepper. A key
that is not proven good now is refused; a store that cannot be trusted refuses every key, those it remembers too. The
gateway reads (`verify` over a key source), the command line and the admin listener write (`local.writer`).

    source     the port of every key source         verify     what the gate asks
    key        a key, and why it is no good now     format     the shape of our own keys
    pepper     the secret of the digests            validate   what people may write into a key
    importing  keys from elsewhere                  serialize  a key as JSON, and in the audit log
    paging     pages of lists

    local      keys.db of the state directory: its `source`, `writer`, `reader` and `deny_list`, over `database`
    workos     the key source over WorkOS' API: `cache` is what it said, `api_key` WorkOS' shape of a key
"""
