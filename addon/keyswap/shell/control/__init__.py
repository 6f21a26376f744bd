"""The control socket: how commands ask the running gateway, and what it answers.

control_socket  one question and one answer a connection   commands  the questions, and who answers each
status          what is enforced, and the stores' state    explain   the decision on a request that is described
limits          how full limits are, and emptying them
"""
