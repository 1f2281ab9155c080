"""The use case: what it may say (`declaration`), what it is (`definition`), finding and loading it (`loading`)."""
