"""Speed against the plain loop that does the same work: each script prints its ratio."""
