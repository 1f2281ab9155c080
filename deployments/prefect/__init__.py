"""What speaks with Prefect from outside of flows: servers, schedules, lost and missed runs, alerts, a night by hand."""
