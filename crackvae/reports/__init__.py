"""HTML reports of scored nights and of evaluations."""
