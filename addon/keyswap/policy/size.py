"""How large a policy's file may be: known without what reads one."""

MAX_BYTES = 1 << 20
