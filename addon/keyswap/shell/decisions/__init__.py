"""The decision log: the line of each decision, where it goes, and how it is found again.

decision_line  its fields in the log, and the record that is kept
record   what is known of a decision   masking  keys out of both
writer   the way to a destination      sinks    where lines end                         row      its columns
store    the database of what is kept  reader   the record of a request; what is decided from now on
pending  a decision on its way to both
"""
