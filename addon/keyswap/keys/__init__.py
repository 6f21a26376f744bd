"""WHO, by API key: from the value that a caller presents to the principal it stands for.

Law: a key's value exists in memory for the length of one call, and at rest only as HMAC-SHA-256 under the pepper. A key
that is not proven good now is refused; a store that cannot be trusted refuses every key, those it remembers too. The
gateway reads (`verify` over a source such as `sqlite`), the command line writes (`ledger`); both stand on `database`.

    format     the shape of our own keys            database   the file keys.db, its schema; rows: a key in it
    pepper     the secret of the digests            watch      is it still the same database; who is blocked
    key        a key, and why it is no good now     sqlite     the key source over keys.db; used: last uses
    source     the port of every key source         ledger     every change; over denylist and catalogue (reading)
    verify     what the gate asks                   importing  keys from elsewhere; inputs: what people may write
    told       a key as others are told of it       paging     pages of lists; permissions: the names of those
    workos     the key source over WorkOS' API      remembered what it said; apikey: WorkOS' shape of a key
"""
