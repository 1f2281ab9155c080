"""What data must satisfy: typed rules as Great Expectations suites, and the suite files of use cases."""
