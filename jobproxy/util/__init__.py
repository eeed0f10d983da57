"""General-purpose parts that know nothing of jobs."""
