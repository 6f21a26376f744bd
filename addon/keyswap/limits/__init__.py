"""HOW OFTEN: leaky buckets, quotas and places in flight, counted exactly by every process that shares a store.

step      which limits a request touches             limit    a limit, and the port of every store
bucket    a leaky bucket in one number               windows  the calendar windows of quotas
headers   limits as header fields                    health   how a store is doing

local     counters in the state directory: its `store`, over the `table` and what is `in_flight`
valkey    counters in a server that machines share: its `store`, the `plan` it sends, its `connection`
"""
