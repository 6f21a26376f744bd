"""WorkOS, as everything here speaks with it: its API, and what it tells of changes.

Law: our secret key and the keys that are asked about leave this process in requests to WorkOS alone: no log line, error
or status holds one. Whatever WorkOS answers is bounded in bytes, and whoever waits for it in time.

    client     the one HTTP client for its API            condition  is it answering; each change of that is told once
    answers    what an answer means
    budget     how many calls may be made                 breaker    when it is not to be asked at all
"""
