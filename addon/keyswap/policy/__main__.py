"""`python -m keyswap.policy`: print the JSON Schema of a policy."""

import json

from keyswap.policy import schema

print(json.dumps(schema(), indent=2))
