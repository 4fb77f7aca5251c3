"""The snapshot path: scan -> plan -> pack -> upload -> commit."""
