"""The decision log: the line of each decision, where it goes, and how it is found again.

record   what is known of a decision, and who writes its line   encode   the line, and the record that is kept
sinks    where lines end                                        store    the files of what is kept
reader   the record of a request; what is decided from now on   masking  keys out of what is written down
"""
