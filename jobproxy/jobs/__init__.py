"""What is known of a job: the record, the correlation table, retention, events."""
