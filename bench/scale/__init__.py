"""How far one machine and a cluster go: measured rates, and a simulation of large collections."""
