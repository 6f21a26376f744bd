"""What is measured.

definitions  every metric's name, kind and labels          counters    what one process has counted
collect      what a process says of itself when asked      prometheus  Prometheus' exposition formats
"""
