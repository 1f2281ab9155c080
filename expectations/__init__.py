"""The rules that data must satisfy, as suites of Great Expectations (`suite`), and the suite files of use cases."""
