"""`python -m proxyservice`: the same as the console script."""

from proxyservice.command import main

main(prog_name="proxyservice")
