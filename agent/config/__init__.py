"""Configuration: typed values, where they come from, and what each provider means."""
