"""Everything that talks to Prefect from outside of a flow.

That is starting the servers, serving the schedules, ending lost runs, making up for missed ones, alerts, and a night
that an operator starts.
"""
