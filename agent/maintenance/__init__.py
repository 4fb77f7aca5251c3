"""Looking after a repository: is everything still there, and what is not needed any more."""
