"""The repository: its format (FORMAT.md), and reading and writing snapshots in it."""
