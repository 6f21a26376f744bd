"""The store `local`: counters in the state directory, shared by every gateway process of the machine."""
