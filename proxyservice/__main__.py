"""`python -m proxyservice`: the same as the console script."""

from proxyservice.node.cli import main

main(prog_name="proxyservice")
