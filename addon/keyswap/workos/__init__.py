"""WorkOS, as everything here speaks with it: its API, and what it tells of changes.

Law: our secret key and the keys that are asked about leave this process in requests to WorkOS alone: no log line, error
or status holds one. Whatever WorkOS answers is bounded in bytes, and whoever waits for it in time.

    client       the one HTTP client for its API      responses    what its answers mean
    budget       how many calls may be made           breaker      when it is not to be asked at all
    health       whether it answers                   events       what an event says has changed
    polling      asking for events                    webhook      an event that is delivered
    change_feed  what has changed, for every process of the state directory; `store` is its file
    revocations  keys, users, organizations, sessions and agents that are over
"""
