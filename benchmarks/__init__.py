"""Side by side: this project and its peers, measured on one machine.

``python -m benchmarks`` starts everything on loopback and prints one table;
docs/benchmarks.md explains it. The map, from the outside in:

- ``__main__``: options, and what runs in which order
- ``rounds``: interleaved rounds over the peers; ``report`` and ``charts``: what
  comes out of them; ``goals``: the ratios that are wanted
- ``peers/``: how each relay is started, one small class each
- ``measure/``: what is measured at a running relay, one idea each
- ``scene``, ``delay``: where the two ends stand, and the slow wire between them
- ``origin``: what stands behind the relays
- ``registrar``: many nodes without a node's cost, over plain sockets
- ``processes``, ``tools``: child processes, and the C programs in ``csource/``

``relay`` and ``load/`` measure the message relay alone; they do not use the
rest of the package.
"""
