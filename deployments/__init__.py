"""When and by whom: the command line, the servers, the table of deployments."""
