"""When things run: jobs, schedules, sensors, checks and the resource they share. Never how."""
