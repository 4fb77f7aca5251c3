"""Stores and transfer engines. ``agent.storage.open`` makes them from a configuration."""
