"""One gateway process beside its requests, without mitmproxy.

runtime       the process: the policy in force, the state directory, and all that is tended
active_policy a policy and everything made from it     reload      following the policy's files
readiness     whether the process can serve            heap        the garbage collector around a load
last_good     the policy that a worker starts with while its files say something else
signing_keys  the signing keys, followed              well_known  the paths that the listener answers itself
certificate   what the listener shows of `serve --tls-cert`
decide        a decision, with the keys that sign now  request_ids  ids that sort by time
exceptions    what reached a handler: counted and logged   webhooks  those of WorkOS
connection_limits  what connections may hold, and for how long, as the policy has it
"""
