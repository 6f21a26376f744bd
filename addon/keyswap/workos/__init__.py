"""WorkOS: its API, and its events.

Law: our secret key and the keys that are asked about leave this process in requests to WorkOS alone: no log line, error
or status holds one. Every answer of WorkOS is bounded in bytes, every wait for it in time.

    client       the one HTTP client for its API      responses    the meaning of its answers
    budget       how many calls may be made           breaker      when no call is made at all
    health       whether it answers                   events       the changes that an event means
    polling      fetching events                    webhook      an event that is delivered
    change_feed  what has changed, for every process of the state directory; `store` is its file
    revocations  keys, users, organizations, sessions and agents that are over
"""
