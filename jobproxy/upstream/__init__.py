"""Everything about calling the job server."""
