"""Behind the entry points: the only place that knows gin."""
