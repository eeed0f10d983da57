"""Small general parts that know nothing of jobs."""
