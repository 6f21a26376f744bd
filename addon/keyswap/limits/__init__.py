"""HOW OFTEN: leaky buckets, quotas and places in flight, counted exactly by every process that shares a store."""
