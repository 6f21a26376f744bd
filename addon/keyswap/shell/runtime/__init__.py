"""What is in force beside the requests.

runtime       the policy in force and its reload, the state directory, and all that is tended
last_good     the policy that a worker starts with while its files say something else
signing_keys  the signing keys, followed              well_known  the paths that the listener answers itself
"""
