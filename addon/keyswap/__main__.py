"""`python -m keyswap`."""

from keyswap.cli import main

main()
